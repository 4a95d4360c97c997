"""What is known of how a frame was taken."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

__all__ = ["Attitude", "Capture", "Position"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# The fraction by itself: EXIF's may have any number of digits, and Python 3.10 reads 3 or 6.
_ZONED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?([+-]\d\d:\d\d)")


@dataclass(frozen=True)
class Position:
    """Where the camera was.

    Attributes:
        lat, lon: degrees, north and east positive.
        alt: metres above sea level, or None.
        age_s: seconds between the frame and the nearest fix; None where the file states the
            position for this frame, as EXIF does.
        ellipsoid_alt: metres above the WGS 84 ellipsoid, or None; it differs from ``alt`` by up
            to 107 m (EGM96).
    """

    lat: float
    lon: float
    alt: float | None
    age_s: float | None = None
    ellipsoid_alt: float | None = None


@dataclass(frozen=True)
class Attitude:
    """How the vehicle or its camera was turned: yaw first, then pitch, then roll, as aircraft count.

    Attributes:
        roll: degrees, right side down positive.
        pitch: degrees, nose up positive; a camera that looks straight down has −90.
        yaw: degrees clockwise from north, −180 to 180.
        age_s: seconds between the frame and the nearest reading; None where the file states the
            attitude for this frame.
        of: what was turned so.
    """

    roll: float
    pitch: float
    yaw: float
    age_s: float | None = None
    of: Literal["vehicle", "camera"] = "vehicle"


@dataclass(frozen=True)
class Capture:
    """What is known of how a frame was taken.

    Attributes:
        time: ISO 8601; without a zone where the camera states none.
        position: by GPS.
        ground_sample_distance_m: metres per pixel.
        attitude: of the vehicle or the camera.
    """

    time: str | None = None
    position: Position | None = None
    ground_sample_distance_m: float | None = None
    attitude: Attitude | None = None

    @property
    def time_ns(self) -> int | None:
        """``time`` as nanoseconds since 1970; None without one, or without a zone.

        Examples:
            >>> Capture("1970-01-01T01:00:00.5+01:00").time_ns
            500000000
        """
        found = _ZONED.fullmatch(self.time or "")
        if found is None:
            return None
        try:
            since = datetime.fromisoformat(found[1] + found[3]) - _EPOCH
        except ValueError:
            return None
        fraction_ns = int(f"{found[2] or '':0<9.9}")
        return (since.days * 86_400 + since.seconds) * 1_000_000_000 + fraction_ns
