"""Which positions of a GPS receiver are not to be believed."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Fix", "GpsCheck"]

_NS = 1_000_000_000
_FASTEST = 200.0  # metres per second; faster than what carries such a camera
_SLACK = 100.0  # metres that a good fix may be off
_SETTLED_NS = 5 * _NS  # after so long at a new place, that is where it is
_FROZEN_FIXES = 5
_DEGREE_M = 111_195.0  # of a great circle, on a sphere of 6371 km


@dataclass
class Fix:
    """A position as a receiver gave it.

    Attributes:
        time_ns: when.
        lat, lon: degrees.
        alt: metres above sea level, or None.
        ellipsoid_alt: metres above WGS 84, or None.
        good: whether it is believed; what comes later may still change it.
    """

    time_ns: int
    lat: float
    lon: float
    alt: float | None
    ellipsoid_alt: float | None
    good: bool = True


class GpsCheck:
    """Looks at fixes one after another, and marks those that cannot be.

    - No number, no place on Earth, or 0° 0°, as receivers write it before they know.
    - A jump: faster than 200 m/s from the last one that was believed. A place is believed again
      after 5 s without a jump.
    - Frozen: the same latitude, longitude and altitude, to the last digit, over at least 5 fixes
      and for longer than a receiver's noise allows, also that of one that stands. All of them but
      the first are marked, also those that were good until then.

    Args:
        frozen_s: how long that is; None: a position may stay as it is.
    """

    def __init__(self, frozen_s: float | None) -> None:
        self._frozen_s = frozen_s
        self._believed: Fix | None = None  # the last one
        self._before: Fix | None = None  # the last that is a place
        self._settling = 0  # since when there was no jump
        self._same: list[Fix] = []  # fixes that are equal to the last, in a row

    def judge(self, fix: Fix, *, has_fix: bool = True) -> str | None:
        """Mark a fix that is bad, and say in a phrase why; None where it is good."""
        problem = "the receiver has no fix" if not has_fix else _senseless(fix)
        if problem is not None:
            fix.good = False
            return problem
        return self._stuck(fix) or self._jumped(fix)

    def _stuck(self, fix: Fix) -> str | None:
        if self._frozen_s is None:
            return None
        if self._same and _place(self._same[0]) != _place(fix):
            self._same = []
        self._same.append(fix)
        lasted = (fix.time_ns - self._same[0].time_ns) / _NS
        if lasted < self._frozen_s or len(self._same) < _FROZEN_FIXES:
            return None
        for same in self._same[1:]:
            same.good = False
        del self._same[_FROZEN_FIXES:]  # those are marked; the count stays
        return f"the GPS is frozen: a position stays the same to the last digit for {self._frozen_s:g} s"

    def _jumped(self, fix: Fix) -> str | None:
        if self._before is not None and not _reaches(self._before, fix):
            self._settling = fix.time_ns
        self._before = fix
        back = self._believed is None or _reaches(self._believed, fix)
        if back or fix.time_ns - self._settling >= _SETTLED_NS:
            self._believed = fix
            return None
        fix.good = False
        return f"the position jumps, faster than {_FASTEST:g} m/s"


def _senseless(fix: Fix) -> str | None:
    if not (math.isfinite(fix.lat) and math.isfinite(fix.lon)):
        return "a position is no number"
    if not (abs(fix.lat) <= 90 and abs(fix.lon) <= 180):
        return "a position is no place on Earth"
    if fix.lat == fix.lon == 0:
        return "a position is 0° 0°, which means unknown"
    return None


def _place(fix: Fix) -> tuple[float | None, ...]:
    return fix.lat, fix.lon, fix.alt, fix.ellipsoid_alt


def _reaches(before: Fix, after: Fix) -> bool:
    seconds = (after.time_ns - before.time_ns) / _NS
    return _metres(before, after) <= _SLACK + _FASTEST * seconds


def _metres(first: Fix, second: Fix) -> float:
    """Distance over ground: the equirectangular projection about the first, exact enough for a jump."""
    north = second.lat - first.lat
    east = (second.lon - first.lon + 180) % 360 - 180
    return _DEGREE_M * math.hypot(north, east * math.cos(math.radians(first.lat)))
