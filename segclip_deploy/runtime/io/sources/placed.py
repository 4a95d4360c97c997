"""Frames of any source, with the position and attitude of a flight."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone

from segclip_deploy.runtime.io.sources.base import Shot, Source, Unreadable
from segclip_deploy.runtime.io.telemetry.capture import Capture
from segclip_deploy.runtime.io.telemetry.track import Track

__all__ = ["PlacedSource", "placed_capture"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class PlacedSource:
    """The frames of another source; what a track knows of their times stands before what they say.

    Args:
        source: of the frames.
        track: over the time since 1970 in UTC.
        report: is told once where frames have no time that can be compared.

    Attributes:
        live, total, reconnects: of the source.
    """

    def __init__(self, source: Source, track: Track, *, report: Callable[[str], None]) -> None:
        self._source, self._track, self._report = source, track, report
        self.live, self.total, self.reconnects = source.live, source.total, source.reconnects
        self._told = False

    def shots(self, stop: threading.Event) -> Iterator[Shot | Unreadable]:
        """Read them one by one."""
        for item in self._source.shots(stop):
            self.reconnects = self._source.reconnects
            yield item if isinstance(item, Unreadable) else self._placed(item)

    def _placed(self, shot: Shot) -> Shot:
        time_ns = _time_ns(shot)
        if time_ns is not None:
            return replace(shot, capture=placed_capture(shot.capture, self._track, time_ns))
        if not self._told:
            self._told = True
            self._report(
                f"{shot.frame.source}: has no time with a zone, so {self._track.name} says "
                "nothing of it"
            )
        return shot


def placed_capture(capture: Capture, track: Track, time_ns: int) -> Capture:
    """What is known of a frame, with the position and attitude of a track where it has them.

    Args:
        capture: what is known already; it stays where the track says nothing.
        track: over the time since 1970 in UTC.
        time_ns: when the frame was taken, of the same clock.
    """
    position, attitude = track.at(time_ns)
    return replace(
        capture, position=position or capture.position, attitude=attitude or capture.attitude
    )


def _time_ns(shot: Shot) -> int | None:
    """When a frame was taken, nanoseconds since 1970; None where it has no time with a zone."""
    if shot.header is not None:
        return shot.header.stamp_ns
    if shot.capture.time is None:
        return None
    try:
        time = datetime.fromisoformat(shot.capture.time)
    except ValueError:  # EXIF's fraction of a second may have any number of digits
        return None
    if time.tzinfo is None:
        return None
    since = time - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000
