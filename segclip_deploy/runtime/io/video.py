"""Video through PyAV (FFmpeg): files and cameras in, H.264 out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.errors import BadInput

__all__ = ["VIDEO_SUFFIXES", "VideoWriter", "count_frames", "read_live", "read_video"]

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".ts", ".m4v", ".webm")

_OPEN_S, _READ_S = 10.0, 5.0  # a camera that is silent for so long has vanished
_TICKS = 90_000  # per second: MPEG's own clock, so that any capture time can be written
_RATE = 2  # frames per second given to frames that have no time of their own
_BT709 = 1  # AVCOL_SPC_BT709, AVCOL_PRI_BT709 and AVCOL_TRC_BT709


def count_frames(path: Path) -> int | None:
    """How many frames a video's header promises; None where it does not say or cannot be read."""
    av = _av()
    try:
        with av.open(str(path)) as container:
            return container.streams.video[0].frames or None
    except (av.error.FFmpegError, IndexError):
        return None


def read_video(path: Path) -> Iterator[tuple[NDArray[np.uint8], float | None]]:
    """Every frame of a video, (H, W, 3) uint8 RGB, and its time in seconds.

    Raises:
        BadInput: not a video, damaged, or shorter than its header says; after the frames
            that could be read, and those behind damage are lost.
    """
    av = _av()
    times: list[float] = []  # of the first, the last but one and the last frame
    done = 0
    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container, path)
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise BadInput(f"frame {done} is damaged", where=path)
                yield frame.to_ndarray(format="rgb24"), frame.time
                done += 1
                times = [*times[:1], *times[-1:], frame.time or 0.0]
            lasts = (container.duration or 0) / av.time_base
            alone, promised = len(container.streams) == 1, stream.frames
    except av.error.FFmpegError as error:
        after = f" after {done} frames" if done else ""
        raise BadInput(
            f"not a video that can be read{after} ({error.strerror})", where=path
        ) from error
    if not done:
        raise BadInput("no frame in it that can be read", where=path)
    covered, gap = times[-1] - times[0], times[-1] - times[-2:][0]
    # A count may include frames that an edit list hides; Matroska has none, but says how long it lasts.
    fewer, shorter = done < promised, lasts - covered > 1.5 * gap
    much_shorter = not promised and alone and lasts - covered > max(1.0, 2 * gap)
    if (fewer and shorter) or much_shorter:
        raise BadInput(f"cut off: {done} frames in {covered:.1f} of {lasts:.1f} s", where=path)


def read_live(url: str) -> Iterator[NDArray[np.uint8]]:
    """Frames of a camera as they come, (H, W, 3) uint8 RGB, until it ends.

    Args:
        url: ``/dev/video0``, ``rtsp://…``, or any other that FFmpeg opens.

    Raises:
        BadInput: it cannot be opened, or has stopped to answer.
    """
    av = _av()
    device = "://" not in url
    options = {"rtsp_transport": "tcp"} if url.startswith("rtsp") else {}
    try:
        with av.open(
            url,
            format="v4l2" if device else None,
            options=options,
            timeout=None if device else (_OPEN_S, _READ_S),
        ) as container:
            stream = _video_stream(container, url)
            stream.thread_type = "SLICE"  # threads by frame would hold frames back
            for frame in container.decode(stream):
                if not frame.is_corrupt:  # the first ones of a stream joined midway
                    yield frame.to_ndarray(format="rgb24")
    except av.error.FFmpegError as error:
        raise BadInput(f"no picture ({error.strerror})", where=url) from error


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
        self._av = _av()
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


def _av() -> Any:
    return require("av", why="video")


def _video_stream(container: Any, where: object) -> Any:
    if not container.streams.video:
        raise BadInput("no video in it", where=where)
    return container.streams.video[0]
