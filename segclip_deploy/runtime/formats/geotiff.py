"""GeoTIFF headers, in Pillow alone: their tags, and how large a pixel is on the ground."""

from __future__ import annotations

import math
import struct
import warnings
from pathlib import Path
from typing import Any

from PIL import TiffImagePlugin

__all__ = ["EARTH", "ONE_SCALE", "TIFF_ERRORS", "ground_sample_distance", "read_tags"]

EARTH = 6378137.0
"""Metres, equatorial radius of WGS 84."""

ONE_SCALE = 1.5
"""Largest ratio of ground sample distances that are taken for one."""

TIFF_ERRORS = (OSError, SyntaxError, ValueError, LookupError, TypeError, struct.error)
"""What ``read_tags`` raises of a file that is no TIFF, or a damaged one."""

_METRES = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937}  # of linear units, by EPSG code


def ground_sample_distance(path: Path) -> float | None:
    """Metres on the ground between neighbouring rows of a GeoTIFF, from its header alone.

    Degrees are taken along the meridian, and Web Mercator's stretching (1 / cos latitude) is
    taken out. Tags and keys: OGC 19-008r4, GeoTIFF 1.1.

    Returns:
        None for a file that does not say, or is no TIFF that can be read.
    """
    try:
        return _metres_per_row(read_tags(path))
    except TIFF_ERRORS:
        return None


def read_tags(path: Path) -> dict[int, Any]:
    """Tags of a TIFF's first image; its pixels may be of any number and kind.

    Raises:
        one of ``TIFF_ERRORS``: not a TIFF that can be read.
    """
    if not path.is_file():  # a pipe would be waited for
        raise OSError("no file")
    with path.open("rb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading the image itself speaks of what is odd in it
        header = stream.read(8)
        if header[:4] not in (b"II*\0", b"MM\0*"):
            header += stream.read(8)  # a BigTIFF, or no TIFF
        directory = TiffImagePlugin.ImageFileDirectory_v2(header)
        stream.seek(directory.next)
        directory.load(stream)
        return dict(directory)


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
        metres = math.radians(step) * EARTH
    elif keys.get(1024) == 1 and keys.get(3076) in _METRES:  # projected
        metres = step * _METRES[keys[3076]]
        if keys.get(3072) == 3857:
            metres /= math.cosh(northing / EARTH)
    return metres if metres and math.isfinite(metres) else None
