"""What is known of how a frame was taken."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Capture", "Position"]


@dataclass(frozen=True)
class Position:
    """Where the camera was.

    Attributes:
        lat, lon: degrees, north and east positive.
        alt: metres above sea level, or None.
    """

    lat: float
    lon: float
    alt: float | None


@dataclass(frozen=True)
class Capture:
    """What is known of how a frame was taken.

    Attributes:
        time: ISO 8601; without a zone where the camera states none.
        position: by GPS.
        ground_sample_distance_m: metres per pixel.
    """

    time: str | None = None
    position: Position | None = None
    ground_sample_distance_m: float | None = None
