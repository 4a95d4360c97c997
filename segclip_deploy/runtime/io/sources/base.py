"""What a source of frames is, and what it gives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.io.telemetry.capture import Capture

__all__ = ["Shot", "Source", "Unreadable"]


@dataclass(frozen=True)
class Shot:
    """A frame and what is known of it.

    Attributes:
        frame: its pixels.
        name: of its results: a path without suffix, with forward slashes.
        index: its number in the run, bad and dropped ones counted, from 0.
        capture: when, where and how it was taken.
        seconds: its time in the video, or since the first frame of a camera.
        read_ms: reading and decoding.
        clock: ``time.perf_counter()`` when it was there.
        damaged: it was decoded from damaged data, or from frames that were.
    """

    frame: Frame
    name: str
    index: int
    capture: Capture
    seconds: float | None
    read_ms: float
    clock: float
    damaged: bool = False


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
