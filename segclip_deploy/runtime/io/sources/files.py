"""Frames of files: images and videos."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.frame import Frame, read_frame
from segclip_deploy.runtime.io.sources.base import Shot, Unreadable
from segclip_deploy.runtime.io.sources.naming import RemoteFilm, SourceFile
from segclip_deploy.runtime.io.sources.pages import read_pages
from segclip_deploy.runtime.io.sources.video import VideoFrame, read_video
from segclip_deploy.runtime.io.telemetry.exif import Capture, read_capture

__all__ = ["FileSource"]


class FileSource:
    """Images and videos, one after another; a bad one is reported and the next goes on.

    Args:
        files: to read, in this order.
        report: is told in a line what is odd in a file and no error.
    """

    live = False
    reconnects = 0

    def __init__(
        self,
        files: Sequence[SourceFile | RemoteFilm],
        *,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.files, self._report = files, report
        counts = [file.count() for file in files]
        known = [count for count in counts if count is not None]
        self.total = sum(known) if len(known) == len(counts) else None

    def shots(self, stop: threading.Event) -> Iterator[Shot | Unreadable]:  # noqa: ARG002
        """Read them one by one."""
        index = 0
        for file in self.files:
            frames = self._read(file)
            damaged = 0
            while True:
                started = time.perf_counter()
                try:
                    found = next(frames, None)
                except BadInput as error:
                    yield Unreadable(file.shown, _shown(error, file))
                    index += 1
                    break
                if found is None:
                    break
                frame, name, capture = found
                now = time.perf_counter()
                yield Shot(
                    Frame(frame.pixels, file.shown),
                    name,
                    index,
                    capture,
                    frame.seconds,
                    1e3 * (now - started),
                    now,
                    frame.damaged,
                )
                index += 1
                damaged += frame.damaged
            if damaged:
                self._report(f"{file.shown}: {damaged} frames are damaged, and marked so")

    def _read(self, file: SourceFile | RemoteFilm) -> Iterator[tuple[VideoFrame, str, Capture]]:
        """Frames of a file, each with the name of its results."""
        if isinstance(file, SourceFile) and not file.is_series:
            only = VideoFrame(read_frame(file.path).pixels, None, damaged=False)
            yield only, file.name, read_capture(file.path)
            return
        for number, frame in enumerate(self._series(file)):
            yield frame, f"{file.name}_{number:06d}", Capture()

    def _series(self, file: SourceFile | RemoteFilm) -> Iterator[VideoFrame]:
        if isinstance(file, RemoteFilm):
            return read_video(file.address, report=self._report)
        if file.is_film:
            return read_video(file.path, report=self._report)
        return (VideoFrame(*page, damaged=False) for page in read_pages(file.path))


def _shown(error: BadInput, file: SourceFile | RemoteFilm) -> BadInput:
    """The error, naming the file as the user did where ``path`` is a copy."""
    if isinstance(file, SourceFile) and file.address is not None:
        return BadInput(error.what, where=file.shown, fix=error.fix)
    return error
