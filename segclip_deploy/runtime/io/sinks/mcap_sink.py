"""Results as a ROS 2 recording (MCAP) with the definitions of its messages."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from segclip_deploy._optional import require
from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.rosbag import typestore
from segclip_deploy.runtime.io.sinks.base import FrameResult, RasterResult, WriteTimes
from segclip_deploy.runtime.io.sinks.lines import frame_line
from segclip_deploy.runtime.io.sources.base import Header, Shot
from segclip_deploy.runtime.ros.messages import image_fields

__all__ = ["McapSink"]

_LABELS, _OVERLAY, _LINES = "/segclip/labels", "/segclip/overlay", "/segclip/lines"
_KINDS = {
    _LABELS: "sensor_msgs/msg/Image",
    _OVERLAY: "sensor_msgs/msg/CompressedImage",
    _LINES: "std_msgs/msg/String",
}
_QUALITY = 90  # of overlays, which are for eyes
_STILL_S = 0.5  # between images without a time


class McapSink:
    """Writes each frame's labels (mono8), overlay (JPEG) and line, at the frame's own time.

    The labels are class indices, 255 where there is none; their names are in the metadata record
    ``classes``. Rasters are not in it. The file gets its name when it is complete.

    Args:
        path: to write, ``NAME.mcap``.
        overlays: whether to write them.
        report: is told what time is assumed for frames that have none.

    Raises:
        BadInput: another name.
        MissingDependency: mcap or rosbags is not installed.
    """

    def __init__(
        self, path: Path, *, overlays: bool = True, report: Callable[[str], None] = lambda _: None
    ) -> None:
        if path.suffix.lower() != ".mcap":
            raise BadInput("a recording is named NAME.mcap", where=path)
        self._library = require("mcap.writer", why="an MCAP recording")
        self._types = typestore().types
        self.path, self._report, self._told = path, report, False
        self._topics = [topic for topic in _KINDS if overlays or topic != _OVERLAY]
        self._file = ExitStack()
        self._writer: Any = None
        self._channels: dict[str, int] = {}
        self._broken: OSError | None = None

    def __enter__(self) -> McapSink:
        return self

    def __exit__(self, *_: object) -> None:
        """Finish the file and put it in its place; where writing failed, remove it."""
        if self._writer is None:
            return
        try:
            if self._broken is None:
                self._writer.finish()
                self._file.close()
        except OSError as error:
            self._broken = OSError(error.errno, error.strerror, str(self.path))
            raise self._broken from error
        finally:
            if self._broken is not None:
                with contextlib.suppress(OSError):  # closing it fails as writing did
                    self._file.__exit__(type(self._broken), self._broken, None)

    def write(self, result: FrameResult | RasterResult) -> WriteTimes:
        """Add a frame's messages.

        Raises:
            OSError: the disk is full.
        """
        started = time.perf_counter()
        if isinstance(result, RasterResult):
            return WriteTimes(0.0)
        header = self._header(result.shot)
        try:
            if self._writer is None:
                self._open(result)
            self._add_pictures(result, header)
            now = time.perf_counter()
            times = WriteTimes(1e3 * (now - started), 1e3 * (now - result.shot.clock))
            self._add(_LINES, header, data=frame_line(result, times))
        except OSError as error:
            self._broken = OSError(error.errno, error.strerror, str(self.path))
            raise self._broken from error
        return times

    def _open(self, result: FrameResult) -> None:
        temporary = self._file.enter_context(replace_file(self.path))
        stream = self._file.enter_context(temporary.open("wb"))
        writer = self._writer = self._library.Writer(stream)
        writer.start(profile="ros2", library="segclip-deploy")
        names = {str(k): one.name for k, one in enumerate(result.vocabulary.classes)}
        writer.add_metadata("classes", names)
        for topic in self._topics:
            definition, _ = typestore().generate_msgdef(_KINDS[topic], ros_version=2)
            schema = writer.register_schema(_KINDS[topic], "ros2msg", definition.encode())
            self._channels[topic] = writer.register_channel(topic, "cdr", schema)

    def _add_pictures(self, result: FrameResult, header: Header) -> None:
        if result.labelled is None:
            return
        self._add(_LABELS, header, **vars(image_fields(result.labelled.labels)))
        if _OVERLAY in self._topics and result.overlay is not None:
            jpeg = io.BytesIO()
            result.overlay.save(jpeg, "JPEG", quality=_QUALITY)
            data = np.frombuffer(jpeg.getbuffer(), np.uint8)
            self._add(_OVERLAY, header, format="rgb8; jpeg compressed rgb8", data=data)

    def _add(self, topic: str, header: Header, **fields: Any) -> None:
        """Add a message at the time of a header; a String has no header of its own."""
        kind = _KINDS[topic]
        if topic != _LINES:
            sec, nanosec = divmod(header.stamp_ns, 1_000_000_000)
            stamp = self._types["builtin_interfaces/msg/Time"](sec, nanosec)
            fields["header"] = self._types["std_msgs/msg/Header"](stamp, header.frame_id)
        data = bytes(typestore().serialize_cdr(self._types[kind](**fields), kind))
        at = header.stamp_ns
        self._writer.add_message(self._channels[topic], log_time=at, publish_time=at, data=data)

    def _header(self, shot: Shot) -> Header:
        """Of the message that a frame came in; or of when it was taken, as far as that is known."""
        if shot.header is not None and shot.header.stamp_ns:
            return shot.header
        frame_id = shot.header.frame_id if shot.header else ""
        time_ns = shot.capture.time_ns
        if time_ns is None:
            seconds = _STILL_S * shot.index if shot.seconds is None else shot.seconds
            time_ns = round(1e9 * seconds)
            if not self._told:
                self._told = True
                self._report(
                    f"{self.path}: {shot.frame.source} has no time with a zone, so stamps of such "
                    "frames count from 1970-01-01T00:00:00Z"
                )
        return Header(time_ns, frame_id)
