"""Where frames come from: images, videos, cameras."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.frame import Frame, read_frame
from segclip_deploy.runtime.io.telemetry.exif import Capture, read_capture
from segclip_deploy.runtime.io.video import (
    VIDEO_SUFFIXES,
    count_frames,
    read_live,
    read_video,
)

__all__ = ["FileSource", "LiveSource", "Shot", "Source", "Unreadable", "is_live", "is_video"]

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 8.0  # between attempts to reach a camera


@dataclass(frozen=True)
class Shot:
    """A frame and what is known of it.

    Attributes:
        frame: its pixels.
        name: stem of its results' file names.
        index: its number in the run, bad and dropped ones counted, from 0.
        capture: when, where and how it was taken.
        seconds: its time in the video, or since the first frame of a camera.
        read_ms: reading and decoding.
        clock: ``time.perf_counter()`` when it was there.
    """

    frame: Frame
    name: str
    index: int
    capture: Capture
    seconds: float | None
    read_ms: float
    clock: float


@dataclass(frozen=True)
class Unreadable:
    """A frame that could not be read, or the rest of a video."""

    source: str
    error: BadInput


class Source(Protocol):
    """Frames in their order.

    Attributes:
        live: whether they come whether anyone is ready or not.
        total: how many there are, if known.
        reconnects: how often it vanished and came back.
    """

    live: bool
    total: int | None
    reconnects: int

    def shots(self, stop: threading.Event) -> Iterator[Shot | Unreadable]:
        """Read them one by one; what waits inside for more gives up once ``stop`` is set."""
        ...


class FileSource:
    """Images and videos, one after another; a bad one is reported and the next goes on."""

    live = False
    reconnects = 0

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        counts = [count_frames(path) if is_video(path) else 1 for path in paths]
        known = [count for count in counts if count is not None]
        self.total = sum(known) if len(known) == len(counts) else None

    def shots(self, stop: threading.Event) -> Iterator[Shot | Unreadable]:  # noqa: ARG002
        """Read them one by one."""
        index = 0
        for path in self.paths:
            frames = _frames(path)
            while True:
                started = time.perf_counter()
                try:
                    found = next(frames, None)
                except BadInput as error:
                    yield Unreadable(str(path), error)
                    index += 1
                    break
                if found is None:
                    break
                frame, name, capture, seconds = found
                now = time.perf_counter()
                yield Shot(frame, name, index, capture, seconds, 1e3 * (now - started), now)
                index += 1


class LiveSource:
    """A camera or a network stream; one that vanishes is waited for, for a while.

    Args:
        url: see ``read_live``.
        report: is told when it vanishes and returns.
        patience_s: how long it may be away.
        read: url → its frames until it ends; for tests.
    """

    live = True
    total: int | None = None

    def __init__(
        self,
        url: str,
        *,
        report: Callable[[str], None],
        patience_s: float = 60.0,
        read: Callable[[str], Iterator[NDArray[np.uint8]]] = read_live,
    ) -> None:
        self.url, self.report, self.patience_s = url, report, patience_s
        self.reconnects = 0
        self._read = read

    def shots(self, stop: threading.Event) -> Iterator[Shot | Unreadable]:
        """Read frames as they come.

        Raises:
            BadInput: nothing was there at the start, or it was away for longer than the patience.
        """
        index, first, seen = 0, time.perf_counter(), 0.0
        wait, lost = _FIRST_WAIT_S, False
        while not stop.is_set():
            reason = "it has ended"
            started = time.perf_counter()
            try:
                for pixels in self._read(self.url):
                    seen = now = time.perf_counter()
                    if lost:
                        self.reconnects += 1
                        self.report(f"{self.url}: there again")
                    wait, lost = _FIRST_WAIT_S, False
                    yield self._shot(pixels, index, now - first, 1e3 * (now - started), now)
                    index += 1
                    started = time.perf_counter()
                    if stop.is_set():
                        return
            except BadInput as error:
                if not index:
                    raise
                reason = error.what
            if not index:
                raise BadInput("no picture (it ended before the first frame)", where=self.url)
            if time.perf_counter() - seen + wait > self.patience_s:
                raise BadInput(
                    f"vanished ({reason}), and did not return for {self.patience_s:g} s",
                    where=self.url,
                )
            self.report(f"{self.url}: vanished ({reason}); trying again in {wait:g} s")
            lost = True
            stop.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)

    def _shot(
        self, pixels: NDArray[np.uint8], index: int, seconds: float, read_ms: float, clock: float
    ) -> Shot:
        capture = Capture(time=datetime.now(timezone.utc).isoformat(timespec="milliseconds"))
        frame = Frame(pixels, self.url)
        return Shot(frame, f"live_{index:06d}", index, capture, seconds, read_ms, clock)


def is_live(source: str) -> bool:
    """Whether a source is a camera's device or a URL."""
    return "://" in source or Path(source).is_char_device()


def is_video(path: Path) -> bool:
    """Whether a file's name is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()


def _frames(path: Path) -> Iterator[tuple[Frame, str, Capture, float | None]]:
    """Frames of a file, each with the name of its results and its time in a video."""
    if not is_video(path):
        yield read_frame(path), path.stem, read_capture(path), None
        return
    for number, (pixels, seconds) in enumerate(read_video(path)):
        yield Frame(pixels, str(path)), f"{path.stem}_{number:06d}", Capture(), seconds
