"""Frames of files: images and videos."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.io.pictures import read_picture
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.runtime.io.sources.base import Shot, Unreadable
from segclip_deploy.runtime.io.sources.naming import SourceFile
from segclip_deploy.runtime.io.sources.video import count_frames, is_video, read_video
from segclip_deploy.runtime.io.telemetry.exif import Capture, read_capture

__all__ = ["FileSource"]


class FileSource:
    """Images and videos, one after another; a bad one is reported and the next goes on.

    Args:
        files: to read.
        reading: how images are read; by default as they are stored.
        max_megapixels: how large an image may be; by default Pillow's bound, 89.5.
    """

    live = False
    reconnects = 0

    def __init__(
        self,
        files: Sequence[SourceFile],
        *,
        reading: Reading | None = None,
        max_megapixels: float | None = None,
    ) -> None:
        self.files = files
        self._read = partial(
            read_picture, reading=reading or Reading(), max_megapixels=max_megapixels
        )
        counts = [count_frames(file.path) if is_video(file.path) else 1 for file in files]
        known = [count for count in counts if count is not None]
        self.total = sum(known) if len(known) == len(counts) else None

    def shots(self, stop: threading.Event) -> Iterator[Shot | Unreadable]:  # noqa: ARG002
        """Read them one by one."""
        index = 0
        for file in self.files:
            frames = _frames(file, self._read)
            while True:
                started = time.perf_counter()
                try:
                    found = next(frames, None)
                except BadInput as error:
                    yield Unreadable(str(file.path), error)
                    index += 1
                    break
                if found is None:
                    break
                frame, name, capture, seconds = found
                now = time.perf_counter()
                yield Shot(frame, name, index, capture, seconds, 1e3 * (now - started), now)
                index += 1


def _frames(
    file: SourceFile, read: Callable[[Path], Frame]
) -> Iterator[tuple[Frame, str, Capture, float | None]]:
    """Frames of a file, each with the name of its results and its time in a video."""
    path = file.path
    if not is_video(path):
        yield read(path), file.name, read_capture(path), None
        return
    for number, (pixels, seconds) in enumerate(read_video(path)):
        yield Frame(pixels, str(path)), f"{file.name}_{number:06d}", Capture(), seconds
