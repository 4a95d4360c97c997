"""``run``: what an engine makes of images, videos and cameras."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segclip_deploy.cli.options import PATH, json_option, overlap_option, storage, threads_option
from segclip_deploy.cli.output import print_json, print_table, stop_at_signals
from segclip_deploy.cli.progress import progress_bar
from segclip_deploy.cli.rasters import raster_options, reading_of, run_rasters, split_rasters
from segclip_deploy.errors import SegclipError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

    from segclip_deploy.artifacts.vocabulary import Vocabulary
    from segclip_deploy.runtime.io.sinks.lines import LineFile
    from segclip_deploy.runtime.io.sinks.video_sink import VideoSink
    from segclip_deploy.runtime.io.sources.base import Source
    from segclip_deploy.runtime.io.sources.naming import SourceFile
    from segclip_deploy.runtime.streaming.run import Outcome, Run

__all__ = ["run"]


@click.command()
@click.argument("engine", type=PATH)
@click.argument("sources", nargs=-1, required=True)
@click.option("-o", "--out", type=PATH, required=True, help="Folder to write.")
@overlap_option
@threads_option
@click.option("--preflight", is_flag=True, help="Verify the engine first; exit 3 if it fails.")
@click.option(
    "--deadline-ms", type=click.FloatRange(0, min_open=True), help="Leave out what is late."
)
@click.option(
    "--margin-below",
    type=click.IntRange(1, 255),
    default=None,
    help="No label (255) where the margin is smaller; 0-255 as in NAME.margin.png.",
)
@click.option("--no-overlay", is_flag=True, help="Write no NAME.overlay.png.")
@click.option("--video", type=PATH, help="Write the overlays as H.264, NAME.mp4.")
@click.option("--keep", metavar="SIZE", help="Keep so much in the folder, e.g. 10GB; oldest go.")
@click.option("--jsonl", metavar="PATH", help="A copy of areas.jsonl; - is stdout.")
@click.option(
    "--max-megapixels",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Refuse larger images, which take about 7 bytes a pixel of memory.  [default: 89.5]",
)
@raster_options
@json_option
def run(
    engine: Path,
    sources: tuple[str, ...],
    out: Path,
    overlap: int | None,
    threads: int,
    preflight: bool,
    deadline_ms: float | None,
    margin_below: int | None,
    no_overlay: bool,
    video: Path | None,
    keep: str | None,
    jsonl: str | None,
    max_megapixels: float | None,
    as_json: bool,
    **for_rasters: Any,
) -> None:
    """Segment SOURCES with ENGINE, an engine or a bundle.

    SOURCES are images, videos, rasters, folders of them with their sub-folders, and http:// URLs
    of such files; or one camera: /dev/video0, rtsp://... Results lie below --out as the sources lie below the deepest
    folder that holds all of them. Writes NAME.png (labels), NAME.overlay.png, NAME.margin.png where the engine has
    a margin, and areas.jsonl; of a raster that has a place NAME.tif, a Cloud-Optimized GeoTIFF. Bad
    images are listed, the others done, and the exit code is 1, as it is where frames of a video are damaged.
    """
    from tempfile import TemporaryDirectory

    from segclip_deploy.runtime.io.sinks.base import FanOut
    from segclip_deploy.runtime.io.sinks.folder import FolderSink
    from segclip_deploy.runtime.io.sinks.lines import describe_raster_result
    from segclip_deploy.runtime.open_engine import open_segmenter
    from segclip_deploy.runtime.streaming.run import Run

    if as_json and jsonl == "-":
        raise click.UsageError("--json and --jsonl - would both write to stdout")
    limit = storage(keep) if keep else None
    failed: list[Outcome] = []
    ended: Exception | None = None
    with ExitStack() as stack:
        bar = progress_bar("frames")
        tell = partial(bar.console.print, markup=False, soft_wrap=True)
        fetched = Path(stack.enter_context(TemporaryDirectory(prefix="segclip-deploy.")))
        source, rasters = _source(sources, out, fetched, video, tell, max_megapixels, for_rasters)
        videos = _videos(video)
        segmenter = stack.enter_context(
            open_segmenter(engine, overlap=overlap, threads=threads, preflight=preflight)
        )
        name = segmenter.backend.name
        tell(f"{engine} runs in {name}" + (", verification passed" if preflight else ""))
        folder = FolderSink(out, overlays=not no_overlay, lines=_lines(jsonl, stack), keep=limit)
        sink = FanOut(folder, *videos)
        with stop_at_signals() as stop:
            flight = Run(
                segmenter,
                source,
                sink,
                deadline_ms=deadline_ms,
                margin_below=margin_below or 0,
                stop=stop,
            )
            stack.enter_context(sink)
            stack.enter_context(bar)
            try:
                _fly(flight, segmenter.vocabulary, source.total, bar, tell, failed)
            except (SegclipError, OSError) as error:
                ended = error  # what was done before is told first
        bar.stop()
        go_on = ended is None and not stop.is_set()
        results, bad = run_rasters(
            segmenter, engine, rasters if go_on else [], out, sink, for_rasters
        )
        failed += bad
    report = {
        "engine": name,
        "out": str(out),
        **flight.summary.to_json(),
        "dropped": flight.dropped,
        "reconnects": source.reconnects,
        "removed": folder.storage.removed,
        "interrupted": stop.is_set(),
        "rasters": [describe_raster_result(result) for result in results],
        "failed": [{"image": o.source, "error": str(o.error)} for o in failed],
    }
    if as_json:
        print_json(report)
    else:
        _print_report(report, deadline_ms, err=jsonl == "-")
    if ended is not None:
        raise ended
    if stop.is_set():
        raise KeyboardInterrupt
    if failed or flight.summary.damaged:
        click.get_current_context().exit(1)


def _videos(path: Path | None) -> list[VideoSink]:
    from segclip_deploy.runtime.io.sinks.video_sink import VideoSink

    return [] if path is None else [VideoSink(path)]


def _source(
    sources: tuple[str, ...],
    out: Path,
    fetched: Path,
    video: Path | None,
    tell: Callable[[str], None],
    max_megapixels: float | None,
    for_rasters: dict[str, Any],
) -> tuple[Source, list[SourceFile]]:
    """Where frames come from, and the rasters with a place among the sources."""
    from segclip_deploy.errors import BadInput
    from segclip_deploy.runtime.io.sources.opening import find_sources

    found = find_sources(sources, out, folder=fetched, report=tell)
    if video is not None and video.resolve() in [file.path.resolve() for file in found.files]:
        raise BadInput("the overlays would overwrite a source", where=video)
    frames, rasters = split_rasters(found.files, for_rasters)
    source = found.open(
        frames, tell, reading=reading_of(for_rasters), max_megapixels=max_megapixels
    )
    return source, rasters


def _lines(jsonl: str | None, stack: ExitStack) -> LineFile | None:
    from segclip_deploy.runtime.io.sinks.lines import LineFile

    if jsonl is None:
        return None
    if jsonl == "-":
        stdout = sys.stdout.buffer
        return LineFile(getattr(stdout, "raw", stdout), "--jsonl -")
    return LineFile(stack.enter_context(Path(jsonl).open("wb", buffering=0)), jsonl)


def _fly(
    flight: Run,
    vocabulary: Vocabulary,
    total: int | None,
    bar: Progress,
    tell: Callable[[str], None],
    failed: list[Outcome],
) -> None:
    """Run to the end; what is bad is told and put into ``failed``."""
    from segclip_deploy.runtime.io.telemetry.exif import scale_warning

    task = bar.add_task("segmenting", total=total, visible=total != 0)
    warning = None
    for outcome in flight:
        if outcome.error is not None:
            failed.append(outcome)
            tell(f"error: {outcome.error}")
        elif outcome.shot is not None and warning is None:
            warning = scale_warning(outcome.shot.capture, vocabulary)
            if warning is not None:
                tell(f"warning: {outcome.source}: {warning}")
        bar.advance(task)


def _print_report(report: dict[str, Any], deadline_ms: float | None, *, err: bool) -> None:
    if report["rasters"]:
        count = len(report["rasters"])
        click.echo(f"{report['out']}: {count} raster{'s' * (count != 1)}", err=err)
    deadline, stages = report["deadline"], report["ms"]
    counts = {
        "damaged": report["damaged"],
        "bad": report["bad"],
        "skipped": deadline["skipped"] if deadline else 0,
        "dropped": report["dropped"],
        "reconnects": report["reconnects"],
    }
    total = report["done"] + report["bad"] + counts["skipped"]
    if not total and report["rasters"]:
        return
    told = "".join(f", {count} {what}" for what, count in counts.items() if count)
    title = (
        f"{report['out']}: {report['done']} of {total} frames{told}; {report['windows']} windows, "
        f"{report['fps']:.2f} frames/s end to end"
    )
    if not stages:
        click.echo(title, err=err)
        return
    rows = [[stage, *(f"{value:.1f}" for value in p.values())] for stage, p in stages.items()]
    print_table(title, ["ms", "p50", "p95"], rows, err=err)
    if deadline:
        actions = ", ".join(f"{action} {count}" for action, count in deadline["actions"].items())
        click.echo(
            f"deadline {deadline_ms:g} ms: {deadline['miss_rate']:.1%} missed "
            f"({deadline['late']} late, {deadline['skipped']} skipped); {actions}",
            err=err,
        )
    if report["removed"]:
        click.echo(f"--keep: {report['removed']} of the oldest files were removed", err=err)
