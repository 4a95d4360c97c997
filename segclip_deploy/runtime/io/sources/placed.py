"""Frames of any source, with the position and attitude of a flight."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from segclip_deploy.runtime.io.sources.base import Shot, Source, Unreadable
from segclip_deploy.runtime.io.telemetry.track import Track

__all__ = ["PlacedSource"]


class PlacedSource:
    """The frames of another source; what a track knows of their times stands before what they say.

    Args:
        source: of the frames.
        track: over the time since 1970 in UTC.
        report: is told once where frames have no time that can be compared.

    Attributes:
        live, total, reconnects, dropped: of the source.
    """

    def __init__(self, source: Source, track: Track, *, report: Callable[[str], None]) -> None:
        self._source, self._track, self._report = source, track, report
        self.live, self.total = source.live, source.total
        self.reconnects, self.dropped = source.reconnects, source.dropped
        self._told = False

    def shots(self, stop: threading.Event) -> Iterator[Shot | Unreadable]:
        """Read them one by one."""
        for item in self._source.shots(stop):
            self.reconnects, self.dropped = self._source.reconnects, self._source.dropped
            yield item if isinstance(item, Unreadable) else self._placed(item)

    def _placed(self, shot: Shot) -> Shot:
        stamp_ns = 0 if shot.header is None else shot.header.stamp_ns  # 0: it was not set
        time_ns = stamp_ns or shot.capture.time_ns
        if time_ns is not None:
            position, attitude = self._track.at(time_ns)
            known = shot.capture
            capture = replace(
                known,
                position=position or known.position,
                attitude=attitude or known.attitude,
            )
            return replace(shot, capture=capture)
        if not self._told:
            self._told = True
            self._report(
                f"{shot.frame.source}: has no time with a zone, so {self._track.name} says "
                "nothing of it"
            )
        return shot
