"""What is known of how a frame was taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Attitude", "Capture", "Position"]


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
