"""Videos and cameras, read through PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.errors import BadInput

__all__ = ["VIDEO_SUFFIXES", "count_frames", "is_video", "read_live", "read_video"]

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".ts", ".m4v", ".webm")

_OPEN_S, _READ_S = 10.0, 5.0  # a camera that is silent for so long has vanished


def is_video(path: Path) -> bool:
    """Whether a file's name is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()


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


def _av() -> Any:
    return require("av", why="video")


def _video_stream(container: Any, where: object) -> Any:
    if not container.streams.video:
        raise BadInput("no video in it", where=where)
    return container.streams.video[0]
