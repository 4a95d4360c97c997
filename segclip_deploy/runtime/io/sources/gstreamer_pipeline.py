"""A pipeline that runs: its frames, its end, and one line for what goes wrong in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.formats.address import hide_secrets
from segclip_deploy.runtime.io.pixel_formats import PixelFormat
from segclip_deploy.runtime.io.sources.gstreamer_library import GStreamer, load_gstreamer
from segclip_deploy.runtime.io.sources.gstreamer_problems import (
    FIT,
    has,
    install_decoders,
    lacking,
    missing_plugin,
    problem,
)
from segclip_deploy.runtime.io.sources.gstreamer_samples import (
    pixels_of,
    seconds_of,
    taken_at,
    turn_of,
)
from segclip_deploy.runtime.io.sources.gstreamer_zero_copy import take_as_decoded
from segclip_deploy.runtime.io.sources.rotation import Rotation
from segclip_deploy.runtime.io.sources.video import VideoFrame

__all__ = ["SINK", "GstPipeline", "Told", "parse_pipeline"]

_OPEN_S = 10.0  # for its first frame, or until its camera answers
_LIVE_S, _FILE_S = 5.0, 30.0  # what is silent for so long has vanished, or hangs
_POLL_S = 0.1  # how soon errors, the end and a closed pipeline are noticed
_READ_AHEAD = 2  # frames that wait, of a file
_CORRUPT = 1 << 8  # GST_BUFFER_FLAG_CORRUPTED

_NAME = "segclip"
SINK = (
    f"appsink name={_NAME} sync=false caps=video/x-raw,format=(string)"
    f"{{{','.join(kind.value for kind in PixelFormat)}}}"
)
"""How a pipeline of ours ends, in the language of gst-launch."""


class Told:
    """What elements of a pipeline tell, and callbacks in its own threads.

    Attributes:
        error: why it cannot go on; None as long as nothing is wrong.
        alone: nothing but the video is in the stream.
    """

    error: BadInput | None = None
    alone = True

    def tell(self, error: BadInput) -> None:
        """The first error stays."""
        if self.error is None:
            self.error = error


def parse_pipeline(text: str, where: object) -> Callable[[GStreamer, Told], Any]:
    """What makes the pipeline of a text in the language of gst-launch, with our appsink at its end.

    The function that is returned raises BadInput where the text names elements that are not
    installed, or cannot be understood.
    """

    def build(modules: GStreamer, _told: Told) -> Any:
        gst = modules.Gst
        context = gst.ParseContext.new()
        reason = None
        try:
            return gst.parse_launch_full(f"{text} ! {SINK}", context, gst.ParseFlags.FATAL_ERRORS)
        except modules.Error as error:
            reason = hide_secrets(str(error.message))  # type: ignore[attr-defined]
        missing = [name for name in context.get_missing_elements() if not has(modules, name)]
        if missing:
            raise lacking(missing, where)
        unfit = f"to {_NAME}" in reason
        raise BadInput(f"not a pipeline ({reason})", where=where, fix=FIT if unfit else None)

    return build


class GstPipeline:
    """A pipeline that has been opened: its camera answers, or its first frame is decoded.

    Args:
        build: makes it, with ``SINK`` at its end.
        where: what errors call it.

    Attributes:
        live: whether frames come whether anyone is ready or not, as GStreamer says.

    Raises:
        BadInput: it cannot be opened.
        MissingDependency: GStreamer is not here.
    """

    def __init__(self, build: Callable[[GStreamer, Told], Any], where: object) -> None:
        self._modules, self._where, self._told = load_gstreamer(), where, Told()
        self._closed = False
        self._turn = Rotation()
        self._pipeline = build(self._modules, self._told)
        self._sink = self._pipeline.get_by_name(_NAME)
        self._bus = self._pipeline.get_bus()
        take_as_decoded(self._sink.get_static_pad("sink"))
        self._newest: _Newest | None = None
        try:
            self.live = self._pause()
        except BaseException:
            self.close()
            raise

    def frames(self) -> Iterator[VideoFrame]:
        """Its frames to its end, once: all of a file, and of a camera the newest.

        Raises:
            BadInput: an error in it, or no frame for a while; after those that came before.
        """
        gst = self._modules.Gst
        if self.live:
            self._newest = _Newest(self._sink)
        else:
            self._sink.set_property("max-buffers", _READ_AHEAD)
        self._pipeline.set_state(gst.State.PLAYING)
        first = True
        while (sample := self._next(_OPEN_S if first else 0.0)) is not None:
            first = False
            yield self._frame(sample)
        if first and not self._closed:
            raise BadInput("it ended before its first picture", where=self._where, fix=FIT)

    def lasts(self) -> float:
        """Seconds that its stream lasts by its header; 0: that does not say."""
        gst = self._modules.Gst
        known, duration = self._pipeline.query_duration(gst.Format.TIME)
        return float(duration / gst.SECOND) if known else 0.0

    @property
    def alone(self) -> bool:
        """Whether no sound lasts longer than the picture."""
        return self._told.alone

    def close(self) -> None:
        """Stop it, whoever waits for its frames; again is allowed."""
        self._closed = True
        self._pipeline.set_state(self._modules.Gst.State.NULL)

    def _pause(self) -> bool:
        """Open devices and files, and decode the first frame; whether it is live."""
        gst = self._modules.Gst
        change = self._pipeline.set_state(gst.State.PAUSED)
        until = time.monotonic() + _OPEN_S
        while change in (gst.StateChangeReturn.ASYNC, gst.StateChangeReturn.FAILURE):
            if (error := self._listen()) is not None:
                raise error
            if time.monotonic() > until:
                raise BadInput(f"no picture for {_OPEN_S:g} s", where=self._where)
            if change == gst.StateChangeReturn.FAILURE:  # why comes by the bus, if a moment later
                time.sleep(_POLL_S)
            else:
                change, _, _ = self._pipeline.get_state(int(_POLL_S * gst.SECOND))
        return bool(change == gst.StateChangeReturn.NO_PREROLL)

    def _next(self, at_least: float) -> Any:
        """The next sample; None: the end, or it was closed."""
        wait = int(_POLL_S * self._modules.Gst.SECOND)
        patience = max(at_least, _LIVE_S if self.live else _FILE_S)
        until = time.monotonic() + patience
        while not self._closed:
            # Both asked before the sample is taken, since frames from before an error or the end come first.
            ended, error = self._sink.is_eos(), self._listen()
            sample = self._newest.take() if self._newest else self._sink.try_pull_sample(wait)
            if sample is not None:
                return sample
            if error is not None:
                raise error
            if ended:
                return None
            if time.monotonic() > until and not self._closed:
                raise BadInput(f"no picture for {patience:g} s", where=self._where)
        return None

    def _frame(self, sample: Any) -> VideoFrame:
        modules = self._modules
        taken = taken_at(modules, self._pipeline, sample) if self.live else None
        seconds = seconds_of(modules, sample)
        try:
            pixels = pixels_of(modules, sample)
        except BadInput as error:
            raise BadInput(error.what, where=self._where) from error
        damaged = bool(int(sample.get_buffer().get_flags()) & _CORRUPT)
        dropped = self._newest.count() if self._newest else 0
        return VideoFrame(self._turn.apply(pixels), seconds, damaged, taken, dropped)

    def _listen(self) -> BadInput | None:
        """Read what elements have to say: how players turn the frames, and what is wrong."""
        kinds = self._modules.Gst.MessageType
        wanted = kinds.ERROR | kinds.TAG | kinds.ELEMENT
        while (message := self._bus.pop_filtered(wanted)) is not None:
            if message.type == kinds.TAG:
                self._turn = turn_of(self._modules, message.parse_tag()) or self._turn
            elif message.type == kinds.ERROR:
                self._told.tell(problem(self._modules, message, self._where))
            elif (what := missing_plugin(message)) is not None:
                self._told.tell(BadInput(what, where=self._where, fix=install_decoders()))
        return self._told.error


class _Newest:
    """Takes each sample as it comes, and keeps the newest; the others are counted."""

    def __init__(self, sink: Any) -> None:
        self._sample: Any = None
        self._dropped = 0
        self._changed = threading.Condition()
        sink.set_property("emit-signals", True)
        sink.connect("new-sample", self._put)

    def _put(self, sink: Any) -> int:
        sample = sink.pull_sample()
        with self._changed:
            self._dropped += self._sample is not None
            self._sample = sample
            self._changed.notify_all()
        return 0  # GST_FLOW_OK

    def take(self) -> Any:
        """The newest sample; None if none comes for a moment."""
        with self._changed:
            if self._sample is None:
                self._changed.wait(_POLL_S)
            sample, self._sample = self._sample, None
            return sample

    def count(self) -> int:
        """How many were dropped since the last call."""
        with self._changed:
            dropped, self._dropped = self._dropped, 0
            return dropped
