"""Sources that GStreamer reads: cameras, and pipelines that end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.formats.address import PIPELINE, Address, display_name
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.io.sources.base import Shot, Unreadable
from segclip_deploy.runtime.io.sources.gstreamer_decoders import Decoder, decoding_pipeline
from segclip_deploy.runtime.io.sources.gstreamer_library import load_gstreamer
from segclip_deploy.runtime.io.sources.gstreamer_pipeline import GstPipeline, Told, parse_pipeline
from segclip_deploy.runtime.io.sources.gstreamer_presets import pipeline_text
from segclip_deploy.runtime.io.sources.live import LiveSource
from segclip_deploy.runtime.io.sources.video import VideoFrame
from segclip_deploy.runtime.io.telemetry.capture import Capture

__all__ = ["EndingPipeline", "open_camera", "open_pipeline"]


class EndingPipeline:
    """The frames of a pipeline that ends, such as that of a file: none is lost.

    Args:
        pipeline: opened; whoever opened it closes it.
        shown: what lines and errors call it.
    """

    live = False
    total: int | None = None
    reconnects = dropped = 0

    def __init__(self, pipeline: GstPipeline, shown: str) -> None:
        self._pipeline, self._shown = pipeline, shown

    def shots(self, stop: threading.Event) -> Iterator[Shot | Unreadable]:  # noqa: ARG002
        """Read them one by one; what goes wrong comes last, after all frames before it."""
        frames, index = self._pipeline.frames(), 0
        while True:
            started = time.perf_counter()
            try:
                found = next(frames, None)
            except BadInput as error:
                yield Unreadable(self._shown, error)
                return
            if found is None:
                return
            now = time.perf_counter()
            yield Shot(
                Frame(found.pixels, self._shown),
                f"gst_{index:06d}",
                index,
                Capture(),
                found.seconds,
                1e3 * (now - started),
                now,
                found.damaged,
            )
            index += 1


class _Camera:
    """A live pipeline; for each return of a camera that vanished it is opened anew."""

    def __init__(self, opened: GstPipeline | None, reopen: Callable[[], GstPipeline]) -> None:
        self._opened, self._reopen, self._closed = opened, reopen, False
        self._pipeline = opened

    def read(self, _url: str) -> Iterator[VideoFrame]:
        """Frames until it vanishes."""
        if self._closed:
            return
        self._pipeline, self._opened = self._opened or self._reopen(), None
        try:
            yield from self._pipeline.frames()
        finally:
            self._pipeline.close()

    def close(self) -> None:
        """Stop it, whoever waits for its frames, for good."""
        self._closed = True
        if self._pipeline is not None:
            self._pipeline.close()


@contextmanager
def open_pipeline(
    source: str, report: Callable[[str], None]
) -> Iterator[LiveSource | EndingPipeline]:
    """A source of ``gst:``, ``csi:`` or ``usb:``; whether it is live GStreamer says.

    Raises:
        BadInput: it cannot be opened.
        MissingDependency: GStreamer is not here.
    """
    shown = display_name(source)
    build = parse_pipeline(pipeline_text(source), shown)

    def open_it() -> GstPipeline:
        return GstPipeline(build, shown)

    if not source.startswith(PIPELINE):  # a camera: a service may start before it is there
        build(load_gstreamer(), Told())  # but not without its elements
        with _live(None, open_it, source, report) as live:
            yield live
        return
    pipeline = open_it()
    if pipeline.live:
        with _live(pipeline, open_it, source, report) as live:
            yield live
        return
    try:
        yield EndingPipeline(pipeline, shown)
    finally:
        pipeline.close()


@contextmanager
def open_camera(url: str, decoder: Decoder, report: Callable[[str], None]) -> Iterator[LiveSource]:
    """An RTSP camera, through a decoder of choice.

    Raises:
        BadInput: the decoder is not here.
        MissingDependency: GStreamer is not here.
    """
    build = decoding_pipeline(Address(url), decoder)

    def open_it() -> GstPipeline:
        return GstPipeline(build, Address(url))

    with _live(open_it(), open_it, url, report) as live:
        yield live


@contextmanager
def _live(
    opened: GstPipeline | None,
    reopen: Callable[[], GstPipeline],
    url: str,
    report: Callable[[str], None],
) -> Iterator[LiveSource]:
    camera = _Camera(opened, reopen)
    try:
        yield LiveSource(url, report=report, read=camera.read)
    finally:
        camera.close()
