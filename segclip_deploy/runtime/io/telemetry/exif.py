"""What a camera writes beside the pixels: when, where, and how large a pixel is on the ground."""

from __future__ import annotations

import math
import re
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.runtime.formats.geotiff import ONE_SCALE
from segclip_deploy.runtime.formats.image_file import header_of
from segclip_deploy.runtime.io.telemetry.capture import Attitude, Capture, Position

__all__ = ["read_capture", "scale_warning"]

_EXIF, _GPS = 0x8769, 0x8825  # the sub-directories
_STATUS = 9  # GPSStatus: A for a fix, V for none
_TIME, _FRACTION, _ZONE = 0x9003, 0x9291, 0x9011  # DateTimeOriginal, SubSec…, OffsetTime…
_WIDTH, _HEIGHT, _FOCAL_35 = 0xA002, 0xA003, 0xA405
_DIAGONAL_35 = math.hypot(36, 24)  # mm
_SIGNS = {"N": 1, "S": -1, "E": 1, "W": -1}
_TURNED: dict[bytes, Literal["camera", "vehicle"]] = {b"Gimbal": "camera", b"Flight": "vehicle"}
_NADIR = 10.0  # degrees from straight down within which a pixel has one size


def read_capture(path: Path) -> Capture:
    """Read an image's EXIF and DJI's XMP; what is absent or senseless is None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # reading the pixels speaks of what is odd in it
            with header_of(path) as image:
                exif = image.getexif()
                taken, place = exif.get_ifd(_EXIF), exif.get_ifd(_GPS)
                size, xmp = image.size, _xmp(image)
        ground = _ground_sample_distance(size, taken, xmp)
        return Capture(_time(taken), _position(place), ground, _attitude(xmp))
    except Exception:  # EXIF is whatever the camera wrote, and Pillow raises many types on it
        return Capture()


def scale_warning(capture: Capture, vocabulary: Vocabulary) -> str | None:
    """Say so where a frame's pixels are of another size than those of the vocabulary's dataset."""
    here, there = capture.ground_sample_distance_m, vocabulary.ground_sample_distance_m
    if here is None or there is None or max(here / there, there / here) <= ONE_SCALE:
        return None
    return (
        f"a pixel is about {here:.2g} m on the ground by altitude and focal length, and "
        f"vocabulary {vocabulary.name} is of {there:g} m; labels may be wrong: resample the "
        "frames, or train at this scale"
    )


def _xmp(image: Image.Image) -> bytes:
    """A JPEG's XMP packet; DJI writes no other format that is read here."""
    for marker, data in getattr(image, "applist", ()):
        if marker == "APP1" and data.startswith(b"http://ns.adobe.com/xap/"):
            return bytes(data)
    return b""


def _time(taken: dict[int, Any]) -> str | None:
    if _TIME not in taken:
        return None
    text = str(taken[_TIME]).strip("\0 ")
    try:
        time = datetime.strptime(text, "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:  # "0000:00:00 00:00:00" is common
        return None
    fraction = str(taken.get(_FRACTION, "")).strip("\0 ")
    zone = str(taken.get(_ZONE, "")).strip("\0 ")
    return (
        time
        + (f".{fraction}" if fraction.isdecimal() else "")
        + (zone if re.fullmatch(r"[+-]\d\d:\d\d", zone) else "")
    )


def _position(place: dict[int, Any]) -> Position | None:
    """None without a fix: half a position, no hemisphere, 0/0, void, or 0° 0° as many write it then."""
    if not {1, 2, 3, 4} <= place.keys() or _letter(place.get(_STATUS)) == "V":
        return None
    north, east = _SIGNS.get(_letter(place[1])), _SIGNS.get(_letter(place[3]))
    if north is None or east is None:
        return None
    lat, lon = north * _degrees(place[2]), east * _degrees(place[4])
    if not (abs(lat) <= 90 and abs(lon) <= 180) or lat == lon == 0:
        return None
    alt = float(place[6]) if 6 in place else math.nan
    if place.get(5) in (b"\1", 1):
        alt = -alt
    return Position(round(lat, 8), round(lon, 8), round(alt, 3) if math.isfinite(alt) else None)


def _letter(value: Any) -> str:
    """A reference's letter; cameras write it with and without a zero byte, and in lower case."""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    return text.strip("\0 ").upper()[:1]


def _degrees(parts: Any) -> float:
    """NaN where it is no angle: the time, which has its own tags, may be good."""
    try:
        degrees, minutes, seconds = (float(part) for part in parts)
    except (TypeError, ValueError):
        return math.nan
    return degrees + minutes / 60 + seconds / 3600


def _attitude(xmp: bytes) -> Attitude | None:
    """That of DJI's gimbal, or else of the drone; DJI counts as ``Attitude`` does."""
    for key, of in _TURNED.items():
        angles = [_dji(xmp, key + angle + b"Degree") for angle in (b"Roll", b"Pitch", b"Yaw")]
        if None not in angles:
            roll, pitch, yaw = (float(angle or 0) for angle in angles)
            return Attitude(roll, pitch, yaw, of=of)
    return None


def _ground_sample_distance(
    size: tuple[int, int], taken: dict[int, Any], xmp: bytes
) -> float | None:
    """Height above take-off × (film's diagonal / focal length of that film) / diagonal in pixels.

    The pinhole camera's similar triangles; the 35 mm equivalent focal length compares diagonals
    (CIPA DCG-001). Of a camera that cuts its own sensor (4:3 to 16:9) this is 10 % too much.
    Unknown without DJI's RelativeAltitude (EXIF's altitude is above the sea), off nadir, and for
    a frame that was cut after it was taken.
    """
    height, pitch = _dji(xmp, b"RelativeAltitude"), _dji(xmp, b"GimbalPitchDegree")
    focal = float(taken.get(_FOCAL_35) or math.nan)
    full = [
        float(taken.get(tag) or side) for tag, side in zip((_WIDTH, _HEIGHT), size, strict=True)
    ]
    known = height is not None and height > 0 and focal > 0
    if not known or (pitch is not None and abs(pitch + 90) > _NADIR):
        return None
    if abs(full[0] / full[1] / (size[0] / size[1]) - 1) > 0.01:
        return None
    assert height is not None
    return height * _DIAGONAL_35 / focal / math.hypot(*size)


def _dji(xmp: bytes, key: bytes) -> float | None:
    """A number of the drone-dji schema, written as an attribute or as an element."""
    found = re.search(rb"drone-dji:" + key + rb'(?:="|>)\s*([+-]?\d+(?:\.\d+)?)', xmp)
    return float(found[1]) if found else None
