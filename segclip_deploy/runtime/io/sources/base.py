"""What a source of frames is, and what it gives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.io.telemetry.capture import Capture

__all__ = ["Header", "Shot", "Source", "Unreadable"]


@dataclass(frozen=True)
class Header:
    """What a ROS message says of its own time and place: ``std_msgs/Header``.

    Attributes:
        stamp_ns: when it was taken, nanoseconds by the sender's clock; 0 where it was not set.
        frame_id: the coordinate frame that it belongs to, such as ``"camera_optical"``.
    """

    stamp_ns: int
    frame_id: str


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
        clock: ``time.perf_counter()`` when it was there; where a camera's driver says it, when it was taken.
        damaged: it was decoded from damaged data, or from frames that were.
        header: of an image that came as a ROS message, live or from a recording.
    """

    frame: Frame
    name: str
    index: int
    capture: Capture
    seconds: float | None
    read_ms: float
    clock: float
    damaged: bool = False
    header: Header | None = None


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
        dropped: frames that were dropped before they were read.
    """

    live: bool
    total: int | None
    reconnects: int
    dropped: int

    def shots(self, stop: threading.Event) -> Iterator[Shot | Unreadable]:
        """Read them one by one; what waits inside for more gives up once ``stop`` is set."""
        ...
