"""Frames of files: images and videos."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.io.pages import read_pages
from segclip_deploy.runtime.io.pictures import read_picture
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.runtime.io.sources.base import Shot, Unreadable
from segclip_deploy.runtime.io.sources.film_capture import FilmCapture
from segclip_deploy.runtime.io.sources.gstreamer_decoders import Decoder
from segclip_deploy.runtime.io.sources.gstreamer_films import read_film
from segclip_deploy.runtime.io.sources.naming import RemoteFilm, SourceFile
from segclip_deploy.runtime.io.sources.video import VideoFrame, read_video
from segclip_deploy.runtime.io.telemetry.capture import Capture
from segclip_deploy.runtime.io.telemetry.exif import read_capture

__all__ = ["FileSource"]


class FileSource:
    """Images and videos, one after another; a bad one is reported and the next goes on.

    Args:
        files: to read, in this order.
        reading: how images are read; by default as they are stored.
        max_megapixels: how large an image may be; by default Pillow's bound, 89.5.
        decoder: of films, by GStreamer; by default PyAV.
        report: is told in a line what is odd in a file and no error.
    """

    live = False
    reconnects = dropped = 0

    def __init__(
        self,
        files: Sequence[SourceFile | RemoteFilm],
        *,
        reading: Reading | None = None,
        max_megapixels: float | None = None,
        decoder: Decoder | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.files, self._report, self._decoder = files, report, decoder
        self._picture = partial(
            read_picture, reading=reading or Reading(), max_megapixels=max_megapixels
        )
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
                frame, name, capture, seconds, is_damaged = found
                now = time.perf_counter()
                yield Shot(
                    frame,
                    name,
                    index,
                    capture,
                    seconds,
                    1e3 * (now - started),
                    now,
                    is_damaged,
                )
                index += 1
                damaged += is_damaged
            if damaged:
                self._report(f"{file.shown}: {damaged} frames are damaged, and marked so")

    def _read(
        self, file: SourceFile | RemoteFilm
    ) -> Iterator[tuple[Frame, str, Capture, float | None, bool]]:
        """Frames of a file, each with the name of its results, its time and whether it is damaged."""
        if isinstance(file, SourceFile) and not file.is_series:
            picture = replace(self._picture(file.path), source=file.shown)
            yield picture, file.name, read_capture(file.path), None, False
            return
        known = None
        if isinstance(file, SourceFile) and file.is_film:
            known = FilmCapture(file.path, report=self._report)
        for number, one in enumerate(self._series(file)):
            frame, name = Frame(one.pixels, file.shown), f"{file.name}_{number:06d}"
            capture = Capture() if known is None else known.at(one.seconds)
            yield frame, name, capture, one.seconds, one.damaged

    def _series(self, file: SourceFile | RemoteFilm) -> Iterator[VideoFrame]:
        if isinstance(file, RemoteFilm):
            return read_video(file.address, report=self._report)
        if file.is_film and self._decoder is not None:
            return read_film(file.path, self._decoder, file.count())
        if file.is_film:
            return read_video(file.path, report=self._report)
        return (VideoFrame(*page, damaged=False) for page in read_pages(file.path))


def _shown(error: BadInput, file: SourceFile | RemoteFilm) -> BadInput:
    """The error, naming the file as the user did where ``path`` is a copy."""
    if isinstance(file, SourceFile) and file.address is not None:
        return BadInput(error.what, where=file.shown, fix=error.fix)
    return error
