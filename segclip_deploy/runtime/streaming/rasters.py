"""The part of ``run`` that takes rasters: images that say where their pixels lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from segclip_deploy.errors import BadInput, UsageError
from segclip_deploy.progress import Report, Say, saying
from segclip_deploy.runtime.formats.georeference import find_georeference
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.io.idle_options import refuse_idle_options
from segclip_deploy.runtime.io.raster.pixels import what_is_removed
from segclip_deploy.runtime.io.raster.polygons import check_polygons, write_polygons
from segclip_deploy.runtime.io.raster.seams import seam_score
from segclip_deploy.runtime.io.raster.segment import segment_raster, settings_digest
from segclip_deploy.runtime.io.raster.source import Reading, describe_raster
from segclip_deploy.runtime.io.sinks.base import RasterResult, Sink
from segclip_deploy.runtime.io.sources.naming import SourceFile
from segclip_deploy.runtime.streaming.run import Outcome

__all__ = ["RasterOptions", "run_rasters", "split_rasters"]

_OF_IMAGES = ("--bands", "--scale", "--ignore-alpha")


@dataclass(frozen=True)
class RasterOptions:
    """What is asked for of rasters.

    Attributes:
        reading: how they, and images, are read.
        polygons: write NAME.geojson, too.
        seam_score: label twice, and say how well windows join.
    """

    reading: Reading
    polygons: bool = False
    seam_score: bool = False

    @property
    def given(self) -> tuple[str, ...]:
        """The options that say something, as on a command line."""
        own = {"--polygons": self.polygons, "--seam-score": self.seam_score}
        return (*self.reading.given, *(option for option, given in own.items() if given))


def split_rasters(
    files: Sequence[SourceFile], options: RasterOptions, *, recordings: bool = False
) -> tuple[list[SourceFile], list[SourceFile]]:
    """(images and films, rasters) among the sources.

    Args:
        files: the sources.
        options: that the user gave.
        recordings: the sources are recordings, whose images take ``--bands`` too.

    Raises:
        UsageError: options for what is not there.
        BadInput: an option that changes no image and no raster.
    """
    frames: list[SourceFile] = []
    rasters: list[SourceFile] = []
    for file in files:
        (rasters if find_georeference(file.path) else frames).append(file)
    images = [file for file in frames if not file.is_film]
    for option in options.given:
        if recordings and option == "--bands":
            continue
        if option in _OF_IMAGES and not images and not rasters:
            raise UsageError(f"{option} is for images and rasters, and there is none")
        if option not in _OF_IMAGES and not rasters:
            raise UsageError(f"{option} is for rasters with a place, and there is none")
    refuse_idle_options((file.path for file in (*rasters, *images)), options.reading)
    return frames, rasters


def run_rasters(
    segmenter: Segmenter,
    engine_sha256: str,
    files: Sequence[SourceFile],
    out: Path,
    sink: Sink,
    options: RasterOptions,
    *,
    stop: Event,
    report: Report,
) -> tuple[list[RasterResult], list[Outcome]]:
    """Segment rasters one by one into a folder: their results, and the bad ones.

    Once ``stop`` is set, the raster in work ends; what is finished of it is kept.

    Raises:
        OSError: a result could not be written; what is finished is kept.
    """
    results: list[RasterResult] = []
    failures: list[Outcome] = []
    for file in files:
        say = saying(report)

        def told(what: str, done: int, total: int, file: SourceFile = file) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            report(f"{file.name}: {what}, rows", done, total)

        try:
            result = _run_raster(segmenter, engine_sha256, file, out, options, told, say)
        except BadInput as error:
            failures.append(Outcome(file.shown, error=error))
            say(f"error: {error}")
        except KeyboardInterrupt:
            if not stop.is_set():
                raise
            break
        else:
            sink.write(result)
            results.append(result)
    return results, failures


def _run_raster(
    segmenter: Segmenter,
    engine_sha256: str,
    file: SourceFile,
    folder: Path,
    options: RasterOptions,
    report: Report,
    say: Say,
) -> RasterResult:
    vocabulary = segmenter.vocabulary
    raster = describe_raster(file.path, options.reading, vocabulary.ground_sample_distance_m)
    for note in (*raster.notes, *what_is_removed(raster)):
        say(f"{file.shown}: {note}")
    if options.polygons:
        check_polygons(raster)
    out = folder / f"{file.name}.tif"
    out.parent.mkdir(parents=True, exist_ok=True)
    digest = settings_digest(segmenter, raster, engine_sha256)
    try:
        labelled = segment_raster(segmenter, raster, out, digest=digest, report=report)
    except (OSError, KeyboardInterrupt):
        say(f"{file.shown}: what is finished is kept, the same command goes on from there")
        raise
    height, width = raster.grid.own
    if labelled.kept:
        say(
            f"{file.shown}: {labelled.kept} of {height} rows were there already, from the same settings"
        )
    polygons = out.with_suffix(".geojson")
    drawn = write_polygons(out, vocabulary, polygons) if options.polygons else None
    if drawn is None:
        polygons.unlink(missing_ok=True)  # of an earlier run
    seams = seam_score(segmenter, raster, out, report=report) if options.seam_score else None
    say(
        f"{file.shown}: {file.name}.tif, {width}×{height} in {labelled.windows} windows, "
        f"{labelled.seconds:.1f} s"
        + (f", {drawn.count} polygons" if drawn else "")
        + (f", {_seams(seams.share)}" if seams else "")
    )
    if drawn and drawn.note:
        say(f"{file.shown}: {drawn.note}")
    return RasterResult(file.shown, file.name, labelled, polygons if drawn else None, seams)


def _seams(share: float | None) -> str:
    if share is None:
        return "one window, no seams"
    return f"seam score {share:.4f} (labels that differ along window borders)"
