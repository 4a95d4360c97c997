"""The part of ``run`` that takes rasters: images that say where their pixels lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from segclip_deploy.cli.progress import progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from segclip_deploy.runtime.inference.segmenter import Segmenter
    from segclip_deploy.runtime.io.raster.source import Reading
    from segclip_deploy.runtime.io.sinks.base import RasterResult, Sink
    from segclip_deploy.runtime.io.sources.naming import SourceFile
    from segclip_deploy.runtime.streaming.run import Outcome

__all__ = [
    "READING",
    "picture_options",
    "raster_options",
    "reading_of",
    "reading_options",
    "run_rasters",
    "split_rasters",
]

F = TypeVar("F", bound=Callable[..., Any])


def _bands(_context: object, _option: object, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    numbers = text.split(",")
    if len(numbers) != 3 or not all(n.isdecimal() and int(n) for n in numbers):
        raise click.BadParameter(f"{text!r} is no three bands like 1,2,3 (from 1)")
    return tuple(map(int, numbers))


def _scale(_context: object, _option: object, text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise click.BadParameter(f"{text!r} is no scale like 0,3000 (LOW,HIGH)")
    return low, high


_READING = (
    click.option(
        "--bands", callback=_bands, help="Which bands are red, green and blue, e.g. 4,3,2."
    ),
    click.option(
        "--scale",
        callback=_scale,
        metavar="LOW,HIGH",
        help="Of more than 8 bits: the values that become 0 and 255.",
    ),
    click.option(
        "--keep-scale",
        is_flag=True,
        help="Of rasters: do not resample to the model's ground sample distance.",
    ),
    click.option(
        "--ignore-alpha",
        is_flag=True,
        help="An alpha band takes no pixel away, e.g. where it is near infrared.",
    ),
    click.option(
        "--allow-remote",
        is_flag=True,
        help="Of VRTs: they may refer to the network and to other folders.",
    ),
)
_OF_IMAGES = ("bands", "scale", "ignore_alpha")
READING = ("bands", "scale", "keep_scale", "ignore_alpha", "allow_remote")
"""The parameters of ``reading_options``."""

_MAKING = (
    click.option("--polygons", is_flag=True, help="Of rasters: write NAME.geojson, too."),
    click.option(
        "--seam-score",
        is_flag=True,
        help="Of rasters: label twice, and say how well windows join.",
    ),
)


def reading_options(command: F) -> F:
    """How rasters are read."""
    for option in reversed(_READING):
        command = option(command)
    return command


def picture_options(command: F) -> F:
    """How images are read, and rasters at their own scale."""
    bands, scale, _, alpha, _ = _READING
    return bands(scale(alpha(command)))


def reading_of(options: Mapping[str, Any]) -> Reading:
    """What ``reading_options``, or ``picture_options``, say."""
    from segclip_deploy.runtime.io.raster.source import Reading

    return Reading(
        options["bands"],
        options["scale"],
        options.get("keep_scale", False),
        options.get("ignore_alpha", False),
        options.get("allow_remote", False),
    )


def raster_options(command: F) -> F:
    """The options that only rasters have."""
    for option in reversed(_MAKING):
        command = option(command)
    return reading_options(command)


def split_rasters(
    files: Sequence[SourceFile], options: Mapping[str, Any]
) -> tuple[list[SourceFile], list[SourceFile]]:
    """(images, rasters) among the sources.

    Raises:
        UsageError: options for what is not there.
        BadInput: an option that changes no image and no raster.
    """
    from segclip_deploy.runtime.formats.georeference import find_georeference
    from segclip_deploy.runtime.io.idle_options import refuse_idle_options

    frames: list[SourceFile] = []
    rasters: list[SourceFile] = []
    for file in files:
        (rasters if find_georeference(file.path) else frames).append(file)
    images = [file for file in frames if not file.is_film]
    for name in (name for name, value in options.items() if value):
        option = f"--{name.replace('_', '-')}"
        if name in _OF_IMAGES and not images and not rasters:
            raise click.UsageError(f"{option} is for images and rasters, and there is none")
        if name not in _OF_IMAGES and not rasters:
            raise click.UsageError(f"{option} is for rasters with a place, and there is none")
    refuse_idle_options((file.path for file in (*rasters, *images)), reading_of(options))
    return frames, rasters


def run_rasters(
    segmenter: Segmenter,
    engine: Path,
    files: Sequence[SourceFile],
    out: Path,
    sink: Sink,
    options: Mapping[str, Any],
) -> tuple[list[RasterResult], list[Outcome]]:
    """Segment rasters one by one into a folder: their results, and the bad ones."""
    from segclip_deploy.errors import BadInput
    from segclip_deploy.runtime.open_engine import engine_sha256
    from segclip_deploy.runtime.streaming.run import Outcome

    results: list[RasterResult] = []
    failures: list[Outcome] = []
    if not files:
        return results, failures
    digest = engine_sha256(engine)
    with progress_bar("rows") as bar:
        for file in files:
            task = bar.add_task(file.name, total=None)
            try:
                result = _run_raster(segmenter, digest, file, out, bar, task, options)
            except BadInput as error:
                failures.append(Outcome(file.shown, error=error))
                bar.console.print(f"error: {error}", markup=False, soft_wrap=True)
            else:
                sink.write(result)
                results.append(result)
            bar.remove_task(task)
    return results, failures


def _run_raster(
    segmenter: Segmenter,
    engine_sha256: str,
    file: SourceFile,
    folder: Path,
    bar: Progress,
    task: TaskID,
    options: Mapping[str, Any],
) -> RasterResult:
    from segclip_deploy.runtime.io.raster.pixels import what_is_removed
    from segclip_deploy.runtime.io.raster.polygons import check_polygons, write_polygons
    from segclip_deploy.runtime.io.raster.seams import seam_score
    from segclip_deploy.runtime.io.raster.segment import segment_raster, settings_digest
    from segclip_deploy.runtime.io.raster.source import describe_raster
    from segclip_deploy.runtime.io.sinks.base import RasterResult

    path = file.path

    def tell(text: str) -> None:
        bar.console.print(f"{file.shown}: {text}", markup=False, soft_wrap=True)

    def report(what: str, done: int, total: int) -> None:
        bar.update(task, description=f"{file.name}: {what}", completed=done, total=total)

    vocabulary = segmenter.vocabulary
    raster = describe_raster(path, reading_of(options), vocabulary.ground_sample_distance_m)
    for note in (*raster.notes, *what_is_removed(raster)):
        tell(note)
    if options["polygons"]:
        check_polygons(raster)
    out = folder / f"{file.name}.tif"
    out.parent.mkdir(parents=True, exist_ok=True)
    digest = settings_digest(segmenter, raster, engine_sha256)
    try:
        labelled = segment_raster(segmenter, raster, out, digest=digest, report=report)
    except (OSError, KeyboardInterrupt):
        tell("what is finished is kept, the same command goes on from there")
        raise
    if labelled.kept:
        tell(
            f"{labelled.kept} of {raster.grid.own[0]} rows were there already, from the same settings"
        )
    polygons = out.with_suffix(".geojson")
    drawn = write_polygons(out, vocabulary, polygons) if options["polygons"] else None
    if drawn is None:
        polygons.unlink(missing_ok=True)  # of an earlier run
    seams = seam_score(segmenter, raster, out, report=report) if options["seam_score"] else None
    height, width = raster.grid.own
    tell(
        f"{file.name}.tif, {width}×{height} in {labelled.windows} windows, {labelled.seconds:.1f} s"
        + (f", {drawn.count} polygons" if drawn else "")
        + (f", {_seams(seams.share)}" if seams else "")
    )
    if drawn and drawn.note:
        tell(drawn.note)
    return RasterResult(file.shown, file.name, labelled, polygons if drawn else None, seams)


def _seams(share: float | None) -> str:
    if share is None:
        return "one window, no seams"
    return f"seam score {share:.4f} (labels that differ along window borders)"
