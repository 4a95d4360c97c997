"""The parts of ``api.run``: its source, what it writes to, and the flight itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segclip_deploy.api._arguments import AnyPath
from segclip_deploy.errors import BadInput, GpuAbsent, GpuRefused, SegclipError
from segclip_deploy.progress import Report, Say, saying

if TYPE_CHECKING:
    from segclip_deploy.runtime.inference.segmenter import Segmenter
    from segclip_deploy.runtime.io.raster.source import Reading
    from segclip_deploy.runtime.io.sinks.base import Sink
    from segclip_deploy.runtime.io.sinks.lines import LineFile
    from segclip_deploy.runtime.io.sources.base import Source
    from segclip_deploy.runtime.io.sources.naming import SourceFile
    from segclip_deploy.runtime.io.sources.opening import Found
    from segclip_deploy.runtime.service.endless import EndlessRun
    from segclip_deploy.runtime.streaming.run import Outcome, Run

__all__ = ["fly", "open_endless", "open_films", "open_lines", "open_source"]


def open_endless(out: Path, keep: int | None, say: Say, stack: ExitStack) -> EndlessRun:
    """The parts of a service, with the manager that listens, if one does."""
    from segclip_deploy.runtime.service.endless import EndlessRun
    from segclip_deploy.runtime.service.notify import open_notifier

    assert keep is not None  # check_endless
    notifier = open_notifier()
    if notifier:
        stack.enter_context(notifier)
    return EndlessRun(out, keep, notifier, say)


def open_source(
    found: Found,
    frames: Sequence[SourceFile],
    stack: ExitStack,
    say: Say,
    *,
    reading: Reading,
    max_megapixels: float | None,
    topic: str | None,
    decoder: Literal["nv", "sw", "auto"] | None,
    telemetry: str | None,
    endless: EndlessRun | None,
) -> Source:
    """The frames of a run, with their positions; of a service with numbers that go on."""
    from segclip_deploy.runtime.io.sources.placed import PlacedSource
    from segclip_deploy.runtime.io.telemetry.mavlink import open_telemetry
    from segclip_deploy.runtime.service.restarts import lost_when

    # A pipeline is opened here already, and its camera may be there at a later start.
    with lost_when(BadInput) if endless and found.camera else nullcontext():
        source: Source = stack.enter_context(
            found.open(
                frames,
                say,
                reading=reading,
                max_megapixels=max_megapixels,
                topic=topic,
                decoder=decoder,
            )
        )
    source = endless.number(source) if endless else source
    if telemetry is None:
        return source
    track = stack.enter_context(open_telemetry(telemetry, report=say))
    return PlacedSource(source, track, report=say)


def open_films(
    video: AnyPath | None, mcap: AnyPath | None, found: Found, say: Say, *, overlays: bool
) -> list[Sink]:
    """What overlays and labels are written to beside the folder.

    Raises:
        BadInput: a name that it cannot have, or that of a source.
    """
    from segclip_deploy.runtime.io.sinks.mcap_sink import McapSink
    from segclip_deploy.runtime.io.sinks.video_sink import VideoSink

    named = [path for path in (video, mcap) if path is not None]
    paths = [file.path for file in found.files] + [one.path for one in found.recordings]
    # Not resolve(): it fails where links lead round.
    sources = {os.path.realpath(path) for path in paths} if named else set()
    for path in named:
        if os.path.realpath(path) in sources:
            raise BadInput("the results would overwrite a source", where=path)
    sinks: list[Sink] = [] if video is None else [VideoSink(Path(video))]
    if mcap is not None:
        sinks.append(McapSink(Path(mcap), overlays=overlays, report=say))
    return sinks


def open_lines(jsonl: AnyPath | None, stack: ExitStack) -> LineFile | None:
    """Where the copy of areas.jsonl goes."""
    from segclip_deploy.runtime.io.sinks.lines import LineFile

    if jsonl is None:
        return None
    if jsonl == "-":
        stdout = sys.stdout.buffer
        return LineFile(getattr(stdout, "raw", stdout), "--jsonl -")
    return LineFile(stack.enter_context(Path(jsonl).open("wb", buffering=0)), str(jsonl))


def fly(
    flight: Run, total: int | None, segmenter: Segmenter, report: Report, *, service: bool
) -> tuple[list[Outcome], SegclipError | OSError | None]:
    """Run to the end: the bad frames, and what ended it early, if anything."""
    from segclip_deploy.runtime.inference.window_fit import fit_hint
    from segclip_deploy.runtime.io.telemetry.exif import scale_warning

    failed: list[Outcome] = []
    warning, say = None, saying(report)
    first = True  # a camera's frames have one size, so its first says all
    try:
        for count, outcome in enumerate(_told(flight, service=service), start=1):
            if outcome.error is not None:
                failed.append(outcome)
                say(f"error: {outcome.error}")
            elif outcome.shot is not None and warning is None:
                warning = scale_warning(outcome.shot.capture, segmenter.vocabulary)
                if warning is not None:
                    say(f"warning: {outcome.source}: {warning}")
            if outcome.shot is not None and first:
                first = False
                height, width = outcome.shot.frame.pixels.shape[:2]
                if hint := fit_hint(segmenter.grid(height, width)):
                    say(f"hint: {hint}")
            report("segmenting frames", count, total or 0)
    except (SegclipError, OSError) as error:
        return failed, error
    return failed, None


def _told(flight: Run, *, service: bool) -> Iterator[Outcome]:
    """Outcomes of a flight; of a service, a GPU that refuses ends it as one that is lost."""
    from segclip_deploy.runtime.service.restarts import lost_when

    with lost_when(GpuAbsent, GpuRefused) if service else nullcontext():
        yield from flight
