"""Fly: ``run``, which labels what a camera or a flight brings."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Literal

from segclip_deploy.api._arguments import (
    AnyPath,
    AnyPaths,
    check_endless,
    check_values,
    texts_of,
)
from segclip_deploy.api._run_parts import (
    fly,
    open_endless,
    open_films,
    open_lines,
    open_source,
)
from segclip_deploy.errors import GpuAbsent, GpuRefused, UsageError
from segclip_deploy.progress import Report, saying, silent

if TYPE_CHECKING:
    from segclip_deploy.runtime.streaming.result import RunResult

__all__ = ["run"]


def run(
    engine: AnyPath,
    sources: AnyPaths,
    *,
    out: AnyPath,
    overlap: int | None = None,
    threads: int = 0,
    preflight: bool = False,
    deadline_ms: float | None = None,
    margin_below: int | None = None,
    healthy_only: bool = False,
    no_overlay: bool = False,
    video: AnyPath | None = None,
    keep: int | None = None,
    jsonl: AnyPath | None = None,
    max_megapixels: float | None = None,
    polygons: bool = False,
    seam_score: bool = False,
    bands: tuple[int, int, int] | None = None,
    scale: tuple[float, float] | None = None,
    keep_scale: bool = False,
    ignore_alpha: bool = False,
    allow_remote: bool = False,
    telemetry: str | None = None,
    topic: str | None = None,
    mcap: AnyPath | None = None,
    service: bool = False,
    decoder: Literal["nv", "sw", "auto"] | None = None,
    stop: Event | None = None,
    report: Report = silent,
) -> RunResult:
    """Segment images, videos, rasters, folders of them, or one camera.

    Writes what ``docs/reference/lines.md`` and ``docs/how-to/rasters.md`` describe. Bad images are listed, and
    the others done.

    Args:
        engine: an engine or a bundle.
        sources: files, folders with their sub-folders, and http:// URLs of such files; or
            recordings of ROS 2: ``"flight.mcap"``, a folder of rosbag2; or one camera:
            ``"/dev/video0"``, ``"rtsp://..."``, ``"csi:0"``, ``"usb:0"``, ``"gst:PIPELINE"``.
        out: the folder to write; results lie in it as the sources lie in their common folder.
        overlap: pixels that windows share; by default what ``export --frame`` chose, or a quarter.
        threads: of an engine on the CPU; 0: the engine's choice.
        preflight: verify the engine first.
        deadline_ms: leave out of a frame what would be late, milliseconds.
        margin_below: no label where the margin, 1 to 255, is smaller.
        healthy_only: no label map for frames that are too dark, too bright, blurred, or unlike
            what the engine was calibrated on.
        no_overlay: write no NAME.overlay.png.
        video: write the overlays as H.264, NAME.mp4.
        keep: bytes to keep in the folder; the oldest images go.
        jsonl: a copy of areas.jsonl; ``"-"`` is stdout.
        max_megapixels: refuse larger images; by default 89.5.
        polygons: of rasters: write NAME.geojson, too.
        seam_score: of rasters: label twice, and say how well windows join.
        bands: which bands of images and rasters are red, green and blue, from 1.
        scale: of more than 8 bits: the values that become 0 and 255.
        keep_scale: rasters are not resampled to the model's ground sample distance.
        ignore_alpha: an alpha band takes no pixel away.
        allow_remote: VRTs may refer to the network and to other folders.
        telemetry: where position and attitude of frames come from: ``"udp:127.0.0.1:14550"``,
            ``"serial:/dev/ttyTHS1:57600"``, a ``.tlog`` or a ``.bin``.
        topic: of a recording's images; by default the only one of images.
        mcap: write labels, overlays and lines as a ROS 2 recording, NAME.mcap.
        service: run as docs/how-to/service.md says: tell systemd of every frame, go on after a restart,
            survive power cuts. ``preflight`` is implied, ``keep`` needed.
        decoder: GStreamer decodes video files and rtsp:// cameras: with a Jetson's decoder, with the
            processor, or with the first of them that is there; by default PyAV does.
        stop: set it from another thread or a signal to end early: the frame in work is finished.
        report: told how far it is.

    Raises:
        UsageError: arguments that do not go together.
        BadArtifact: the engine cannot run here.
        BadInput: sources or an output that cannot be used.
        GateFailed: the engine failed its verification.
        DeviceLost: of a service: the camera or the GPU is not there.
        RunStopped: something ended the run before its end; it has the result so far.

    Examples:
        >>> from segclip_deploy import api
        >>> result = api.run("dubai.ort.onnx", "tile.jpg", out="labels")
        >>> result.complete, result.summary.done
        (True, 1)
    """
    check_values(threads, deadline_ms, margin_below, max_megapixels, decoder)
    if service:
        check_endless(keep=keep, video=video, mcap=mcap, jsonl=jsonl)
    from tempfile import TemporaryDirectory

    from segclip_deploy.runtime.io.raster.source import Reading
    from segclip_deploy.runtime.io.sinks.base import FanOut
    from segclip_deploy.runtime.io.sinks.folder import FolderSink
    from segclip_deploy.runtime.io.sources.opening import find_sources
    from segclip_deploy.runtime.open_engine import engine_sha256, open_segmenter
    from segclip_deploy.runtime.service.restarts import lost_when, wait_for_devices
    from segclip_deploy.runtime.streaming.rasters import RasterOptions, run_rasters, split_rasters
    from segclip_deploy.runtime.streaming.result import RunResult, RunStopped
    from segclip_deploy.runtime.streaming.run import Run

    engine, out, stop, say = Path(engine), Path(out), stop or Event(), saying(report)
    reading = Reading(bands, scale, keep_scale, ignore_alpha, allow_remote)
    options = RasterOptions(reading, polygons, seam_score)
    with ExitStack() as stack:
        endless = open_endless(out, keep, say, stack) if service else None
        if endless:
            wait_for_devices(texts_of(sources), stop, say)
        fetched = Path(stack.enter_context(TemporaryDirectory(prefix="segclip-deploy.")))
        found = find_sources(texts_of(sources), out, folder=fetched, report=say)
        recorded = bool(found.recordings)
        frames, rasters = split_rasters(found.files, options, recordings=recorded)
        for option, given in {"--healthy-only": healthy_only, "--service": service}.items():
            if given and rasters:
                raise UsageError(f"{option} is for frames", where=rasters[0].shown)
        source = open_source(
            found,
            frames,
            stack,
            say,
            reading=reading,
            max_megapixels=max_megapixels,
            topic=topic,
            decoder=decoder,
            telemetry=telemetry,
            endless=endless,
        )
        films = open_films(video, mcap, found, say, overlays=not no_overlay)
        if endless:
            preflight, keep = True, endless.keep
            endless.heartbeat.stage(f"opening and verifying {engine}")
        with lost_when(GpuAbsent, GpuRefused) if service else nullcontext():
            segmenter = stack.enter_context(
                open_segmenter(engine, overlap=overlap, threads=threads, preflight=preflight)
            )
        say(f"{engine} runs in {segmenter.backend.name}" + ", verification passed" * preflight)
        folder = FolderSink(
            out,
            overlays=not no_overlay,
            lines=open_lines(jsonl, stack),
            keep=keep,
            log=endless.log(source) if endless else None,
        )
        sink = FanOut(folder, *films, *([endless.heartbeat] if endless else []))
        if endless:
            endless.heartbeat.stage("waiting for the first frame")
        flight = Run(
            segmenter,
            source,
            sink,
            deadline_ms=deadline_ms,
            margin_below=margin_below or 0,
            healthy_only=healthy_only,
            stop=stop,
        )
        stack.enter_context(sink)
        failed, ended = fly(flight, source.total, segmenter, report, service=service)
        left = [] if ended or stop.is_set() else rasters
        done, bad = run_rasters(
            segmenter,
            engine_sha256(engine) if left else "",
            left,
            out,
            sink,
            options,
            stop=stop,
            report=report,
        )
    result = RunResult(
        engine=segmenter.backend.name,
        out=out,
        summary=flight.summary,
        dropped=flight.dropped,
        reconnects=source.reconnects,
        removed=folder.storage.removed,
        interrupted=stop.is_set(),
        rasters=tuple(done),
        failed=(*failed, *bad),
    )
    if ended is not None:
        raise RunStopped(ended, result) from ended
    return result
