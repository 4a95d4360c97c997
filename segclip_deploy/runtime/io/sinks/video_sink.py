"""Overlays as a video: H.264 through PyAV (FFmpeg)."""

from __future__ import annotations

import time
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.sinks.base import FrameResult, RasterResult, WriteTimes

__all__ = ["VideoSink", "VideoWriter"]

_TICKS = 90_000  # per second: MPEG's own clock, so that any capture time can be written
_RATE = 2  # frames per second given to frames that have no time of their own
_BT709 = 1  # AVCOL_SPC_BT709, AVCOL_PRI_BT709 and AVCOL_TRC_BT709


class VideoSink:
    """Writes the overlays of frames into a video. Rasters and skipped frames are not in it.

    Args:
        path: see ``VideoWriter``, as for what is raised.
    """

    def __init__(self, path: Path) -> None:
        self._video = VideoWriter(path)

    def __enter__(self) -> VideoSink:
        return self

    def __exit__(self, *_: object) -> None:
        self._video.close()

    def write(self, result: FrameResult | RasterResult) -> WriteTimes:
        """Add a frame's overlay at its time.

        Raises:
            BadInput: a frame of another size than the first.
            OSError: the disk is full.
        """
        started = time.perf_counter()
        if isinstance(result, RasterResult) or result.overlay is None:
            return WriteTimes(0.0)
        self._video.write(np.asarray(result.overlay), result.shot.seconds)
        now = time.perf_counter()
        return WriteTimes(1e3 * (now - started), 1e3 * (now - result.shot.clock))


class VideoWriter:
    """H.264 in the container that the file's name says, complete or not there.

    Frames keep their own times. The last row or column of odd ones is left out: 4:2:0 has none.

    Args:
        path: to write, ``NAME.mp4`` for example.

    Raises:
        BadInput: another name, or a PyAV without an H.264 encoder.
        MissingDependency: PyAV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._av = require("av", why="video")
        if path.suffix.lower() not in (".mp4", ".mov", ".mkv"):
            raise BadInput("a video is named NAME.mp4, NAME.mov or NAME.mkv", where=path)
        if "libx264" not in self._av.codecs_available:
            raise BadInput("this PyAV cannot write H.264", where=path, fix="pip install -U av")
        self.path = path
        self._file = ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._last, self._offset = -1 / _RATE, 0.0
        self._broken: BaseException | None = None

    def write(self, pixels: NDArray[np.uint8], seconds: float | None) -> None:
        """Add a frame.

        Args:
            pixels: (H, W, 3) RGB, of one size throughout.
            seconds: its time; where times start anew, they go on from the last.

        Raises:
            BadInput: a frame of another size than the first.
            OSError: the disk is full.
        """
        size = (pixels.shape[1] & ~1, pixels.shape[0] & ~1)
        try:
            if self._container is None:
                self._open(*size)
            if size != (self._stream.width, self._stream.height):
                raise BadInput(
                    f"a frame of {size[0]}×{size[1]} in a video of {self._stream.width}×{self._stream.height}",
                    where=self.path,
                    fix="leave --video out, or give images of one size",
                )
            frame = self._av.VideoFrame.from_ndarray(
                np.ascontiguousarray(pixels[: size[1], : size[0]]), format="rgb24"
            ).reformat(format="yuv420p", dst_colorspace="ITU709")
            frame.pts, frame.time_base = self._ticks(seconds), Fraction(1, _TICKS)
            self._container.mux(self._stream.encode(frame))
        except (OSError, self._av.error.FFmpegError) as error:
            self._broken = OSError(error.errno, error.strerror, str(self.path))
            raise self._broken from error

    def close(self) -> None:
        """Finish the file and put it in its place; where writing failed, remove it."""
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            if self._broken is None:
                container.mux(self._stream.encode(None))
            container.close()
        except (OSError, self._av.error.FFmpegError) as error:
            if self._broken is None:
                self._broken = OSError(error.errno, error.strerror, str(self.path))
                raise self._broken from error
        finally:
            broken = self._broken
            self._file.__exit__(type(broken) if broken else None, broken, None)

    def _open(self, width: int, height: int) -> None:
        temporary = self._file.enter_context(replace_file(self.path))
        self._container = self._av.open(str(temporary), "w")
        stream = self._container.add_stream("libx264", options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, _TICKS)
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        self._stream = stream

    def _ticks(self, seconds: float | None) -> int:
        """Presentation time, later than that of the frame before."""
        following = self._last + 1 / _RATE
        if seconds is None:
            self._last = following
        else:
            if seconds + self._offset <= self._last:
                self._offset = following - seconds
            self._last = seconds + self._offset
        return round(self._last * _TICKS)
