"""GeoTIFF: how large a pixel is on the ground."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

from PIL import Image

__all__ = ["ground_sample_distance"]

_EARTH = 6378137.0  # metres, equatorial radius of WGS 84
_METRES = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937}  # of linear units, by EPSG code


def ground_sample_distance(path: Path) -> float | None:
    """Metres on the ground between neighbouring rows of a GeoTIFF, from its header alone.

    Degrees are taken along the meridian, and Web Mercator's stretching (1 / cos latitude) is
    taken out. Tags and keys: OGC 19-008r4, GeoTIFF 1.1.

    Returns:
        None for a file that does not say, or is no TIFF that can be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # reading the image itself speaks of what is odd in it
            with Image.open(path, formats=("TIFF",)) as image:
                tags = dict(image.getexif())
        return _metres_per_row(tags)
    except (OSError, SyntaxError, ValueError, LookupError, TypeError):
        return None
    except Image.DecompressionBombError:
        return None


def _metres_per_row(tags: dict[int, tuple[float, ...]]) -> float | None:
    """From ModelPixelScale and ModelTiepoint, or ModelTransformation, and the GeoKeys."""
    if 33550 in tags:
        step, northing = abs(tags[33550][1]), tags[33922][4]
    elif 34264 in tags:
        matrix = tags[34264]
        step, northing = math.hypot(matrix[1], matrix[5]), matrix[7]
    else:
        return None
    entries = tags[34735]
    keys = {
        int(entries[i]): int(entries[i + 3])
        for i in range(4, len(entries) - 3, 4)
        if entries[i + 1] == 0  # the value stands here, and not in another tag
    }
    metres: float | None = None
    if keys.get(1024) == 2 and keys.get(2054, 9102) == 9102:  # geographic, in degrees
        metres = math.radians(step) * _EARTH
    elif keys.get(1024) == 1 and keys.get(3076) in _METRES:  # projected
        metres = step * _METRES[keys[3076]]
        if keys.get(3072) == 3857:
            metres /= math.cosh(northing / _EARTH)
    return metres if metres and math.isfinite(metres) else None
