"""Positions and attitudes over time, and what they were when a frame was taken."""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Generic, Literal, TypeVar

from segclip_deploy.runtime.io.telemetry.capture import Attitude, Position
from segclip_deploy.runtime.io.telemetry.gps_check import Fix, GpsCheck
from segclip_deploy.runtime.io.telemetry.quaternions import (
    Quaternion,
    angles_of,
    quaternion_of,
    slerp,
)

__all__ = ["REACH_S", "Timed", "Track"]

REACH_S = 2.0
"""How far in time a reading may be from a frame, seconds: GPS that writes once a second may miss one."""

_NS = 1_000_000_000
_HOUR_NS = 3600 * _NS
_ZONES = 14  # hours that a clock may be ahead of UTC
_LIVE_NS = 60 * _NS  # what a live track remembers: longer than any frame is under way

T = TypeVar("T")


class Timed(Generic[T]):
    """Readings in the order of their times, and those beside a time.

    Args:
        keep_ns: of these last nanoseconds only; None: all.
    """

    def __init__(self, keep_ns: int | None = None) -> None:
        self.times: list[int] = []
        self.values: list[T] = []
        self._keep_ns = keep_ns

    def add(self, time_ns: int, value: T) -> bool:
        """Add one; False: it is not later than the last, and left out."""
        if self.times and time_ns <= self.times[-1]:
            return False
        self.times.append(time_ns)
        self.values.append(value)
        # Seldom, since taking from a list's front moves all the others.
        if self._keep_ns and self.times[-1] - self.times[0] > 2 * self._keep_ns:
            old = bisect_right(self.times, self.times[-1] - self._keep_ns)
            del self.times[:old], self.values[:old]
        return True

    def beside(self, time_ns: int) -> tuple[T, T, float, float] | None:
        """The reading before and that after a time, both the same where one is out of reach.

        Returns:
            (before, after, share of the way between them, seconds to the nearer one), or None
            where no reading is within ``REACH_S``.
        """
        after = bisect_right(self.times, time_ns)
        near = [i for i in (after - 1, after) if 0 <= i < len(self.times)]
        near = [i for i in near if abs(self.times[i] - time_ns) <= REACH_S * _NS]
        if not near:
            return None
        first, last = near[0], near[-1]
        span = self.times[last] - self.times[first]
        share = (time_ns - self.times[first]) / span if span else 0.0
        age = min(abs(self.times[i] - time_ns) for i in near) / _NS
        return self.values[first], self.values[last], share, age


class Track:
    """Timed positions and attitudes of one flight; one thread may add to it while others ask.

    Between two readings that are both within ``REACH_S`` of a frame it interpolates: latitude,
    longitude and altitude along a line, attitude by the shortest turn (``slerp``). Beside one
    reading it gives that one. It never extrapolates. What is wrong with the readings is said once
    for each kind, and gives None.

    Args:
        name: of the file or link, for lines.
        report: is told what is wrong.
        live: it remembers the last minutes only.
        frozen_s: after so many seconds at one place, to the last digit, a receiver is frozen; None:
            never, where the digits are too few to tell.

    Examples:
        >>> track = Track("flight.tlog", report=print)
        >>> track.add_position(0, 46.0, 7.0, 500.0)
        >>> track.add_position(1_000_000_000, 46.0001, 7.0, 502.0)
        >>> position, attitude = track.at(500_000_000)
        >>> position.lat, position.alt, position.age_s, attitude
        (46.00005, 501.0, 0.5, None)
    """

    def __init__(
        self,
        name: str,
        *,
        report: Callable[[str], None],
        live: bool = False,
        frozen_s: float | None = 10.0,
    ) -> None:
        self.name, self._live = name, live
        keep = _LIVE_NS if live else None
        self._fixes: Timed[Fix] = Timed(keep)
        self._turns: dict[Literal["camera", "vehicle"], Timed[Quaternion]] = {
            "camera": Timed(keep),  # first: it says more of a picture
            "vehicle": Timed(keep),
        }
        self._check = GpsCheck(frozen_s)
        self._report, self._told = report, set[str]()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many positions and attitudes it holds."""
        return len(self._fixes.times) + sum(len(turns.times) for turns in self._turns.values())

    def describe(self) -> str:
        """How much it holds, and of when: half a sentence for a line."""
        counts = {
            "positions": len(self._fixes.times),
            "attitudes": sum(len(turns.times) for turns in self._turns.values()),
        }
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        if not self._fixes.times:
            return told
        first, last = (_shown_time(self._fixes.times[i]) for i in (0, -1))
        return f"{told}, {first} to {last}"

    def add_position(
        self,
        time_ns: int,
        lat: float,
        lon: float,
        alt: float | None = None,
        *,
        ellipsoid_alt: float | None = None,
        has_fix: bool = True,
    ) -> None:
        """Add a position; one that is not later than the last is left out.

        Args:
            time_ns: since 1970 in UTC, or since the film's start; as of the frames.
            lat, lon: degrees.
            alt: metres above sea level.
            ellipsoid_alt: metres above WGS 84.
            has_fix: False: the receiver says itself that it does not know.
        """
        alt, ellipsoid_alt = _finite(alt), _finite(ellipsoid_alt)
        fix = Fix(time_ns, lat, lon, alt, ellipsoid_alt)
        with self._lock:
            if not self._fixes.add(time_ns, fix):
                return
            problem = self._check.judge(fix, has_fix=has_fix)
        if problem is not None:
            self._tell(problem, f"{problem}; such positions are null")

    def add_attitude(
        self,
        time_ns: int,
        roll: float,
        pitch: float,
        yaw: float,
        *,
        of: Literal["camera", "vehicle"] = "vehicle",
    ) -> None:
        """Add an attitude, degrees as in ``Attitude``; one that is not later than the last is left out."""
        if not all(map(math.isfinite, (roll, pitch, yaw))):
            self._tell("angle", "an attitude is no number; such attitudes are null")
            return
        with self._lock:
            self._turns[of].add(time_ns, quaternion_of(roll, pitch, yaw))

    def at(self, time_ns: int) -> tuple[Position | None, Attitude | None]:
        """Position and attitude when a frame was taken; None where no good reading is in reach."""
        with self._lock:
            beside = self._fixes.beside(time_ns)
            position = None if beside is None else _between(*beside, time_ns)
            attitude = next(filter(None, (self._turned(of, time_ns) for of in self._turns)), None)
            away = self._away(time_ns) if beside is None else None
        if away is not None:
            self._tell("away", away)
        return position, attitude

    def _turned(self, of: Literal["camera", "vehicle"], time_ns: int) -> Attitude | None:
        beside = self._turns[of].beside(time_ns)
        if beside is None:
            return None
        first, last, share, age = beside
        roll, pitch, yaw = (round(angle, 3) for angle in angles_of(slerp(first, last, share)))
        return Attitude(roll, pitch, yaw, round(age, 3), of)

    def _away(self, time_ns: int) -> str | None:
        """Why no fix is near a frame, where there are fixes."""
        if "away" in self._told:
            return None
        if not self._fixes.times:
            return "no position has come yet, so that of frames is null" if self._live else None
        first, last = self._fixes.times[0], self._fixes.times[-1]
        nearest = min(self._fixes.times, key=lambda time: abs(time - time_ns))
        seconds = abs(nearest - time_ns) / _NS
        told = (
            f"no position within {REACH_S:g} s of some frames, so theirs is null "
            f"(the nearest is {seconds:.1f} s away)"
        )
        hours = round(((first + last) / 2 - time_ns) / _HOUR_NS)
        if hours and abs(hours) <= _ZONES and first <= time_ns + hours * _HOUR_NS <= last:
            when = f"{abs(hours)} h {'later' if hours > 0 else 'earlier'}"
            return f"{told}; there are some exactly {when}: is a clock in another time zone?"
        return told

    def _tell(self, kind: str, line: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._report(f"{self.name}: {line}")


def _between(first: Fix, last: Fix, share: float, age: float, time_ns: int) -> Position | None:
    """The position between two fixes; that of the nearer one where the other is bad."""
    nearer = first if time_ns - first.time_ns <= last.time_ns - time_ns else last
    if not nearer.good:
        return None
    if not (first.good and last.good):
        first, last, share = nearer, nearer, 0.0
    east = (last.lon - first.lon + 180) % 360 - 180  # the shorter way, across 180° where it is
    return Position(
        round(first.lat + share * (last.lat - first.lat), 8),
        round((first.lon + share * east + 180) % 360 - 180, 8),
        _mixed(first.alt, last.alt, share),
        round(age, 3),
        _mixed(first.ellipsoid_alt, last.ellipsoid_alt, share),
    )


def _mixed(first: float | None, last: float | None, share: float) -> float | None:
    if first is None or last is None:
        return None
    return round(first + share * (last - first), 3)


def _shown_time(time_ns: int) -> str:
    """A time as people write it; as seconds where a damaged log says a year that is none."""
    try:
        time = datetime.fromtimestamp(time_ns / _NS, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"{time_ns / _NS:.0f} s"
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
