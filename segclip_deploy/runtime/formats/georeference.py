"""Whether a file says where its pixels lie: from its first bytes, its tags and the files beside it.

Nothing here needs rasterio, so that ordinary images cost a look at their header and no more.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from segclip_deploy.runtime.formats.geotiff import TIFF_ERRORS, read_tags

__all__ = ["RASTER_SUFFIXES", "Georeference", "driver_of", "find_georeference", "side_files"]

RASTER_SUFFIXES = (".vrt", ".jp2", ".j2k", ".img")
"""What a folder is searched for, beside the suffixes of images. A file that is named may have any."""

_DRIVERS = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",  # BigTIFF
    b"MM\0+": "GTiff",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JP2OpenJPEG",
    b"\xff\x4f\xff\x51": "JP2OpenJPEG",  # a bare codestream
    b"EHFA_HEADER_TAG": "HFA",
}
"""First bytes of a file → the one driver of GDAL that may open it. Others are never tried."""

_PICTURES = ("GTiff", "PNG", "JPEG", "BMP", "WEBP")  # are plain images unless something says more
_PLACE_TAGS = {
    33550: "a pixel size",
    33922: "tie points",
    34264: "a transformation",
    34735: "GeoTIFF keys",
    50844: "RPCs",
}
_PLACE_XML = (b"<GeoTransform", b"<GCPList", b'domain="RPC"', b"<GeodataXform", b"<SRS")
_XML_BYTES = 16 << 20


@dataclass(frozen=True)
class Georeference:
    """That a file has a place, or belongs to a format that is for such files.

    Attributes:
        driver: of GDAL, which reads the file.
        signs: what says so; none where the format alone does.
    """

    driver: str
    signs: tuple[str, ...]


def find_georeference(path: Path) -> Georeference | None:
    """Whether something says where a file's pixels lie.

    Signs are tags of GeoTIFF, and files beside it: world file, .aux.xml with a place, RPCs, .tab.
    VRT, JPEG 2000 and ERDAS Imagine files are taken for rasters without any.

    Returns:
        None for a plain image, and for what is no image.
    """
    driver = driver_of(path)
    if driver is None:
        return None
    signs = [f"{file.name}" for file in side_files(path) if _has_place(file)]
    if driver == "GTiff":
        try:
            tags = read_tags(path)
        except TIFF_ERRORS:
            tags = {}
        signs = [name for tag, name in _PLACE_TAGS.items() if tag in tags] + signs
    return Georeference(driver, tuple(signs)) if signs or driver not in _PICTURES else None


def driver_of(path: Path) -> str | None:
    """The driver of GDAL for a file, by its first bytes; None for what none is allowed to open."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as stream:
            head = stream.read(1024)
    except OSError:
        return None
    for magic, driver in _DRIVERS.items():
        if head.startswith(magic):
            return driver
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return "VRT" if b"<VRTDataset" in head else None


def side_files(path: Path) -> list[Path]:
    """The files beside an image that GDAL or we read with it, as far as they exist."""
    suffix = path.suffix.lstrip(".").lower()
    ends = ["wld", "tab", "prj", "rpb", "ige"]
    if suffix:
        ends += [suffix[0] + suffix[-1] + "w", suffix + "w"]
    names = [path.with_suffix(f".{variant}") for end in ends for variant in (end, end.upper())]
    names += [path.with_name(path.stem + end) for end in ("_rpc.txt", "_RPC.TXT", "_rpc.TXT")]
    names += [path.with_name(path.name + end) for end in (".aux.xml", ".msk", ".AUX.XML", ".MSK")]
    return [name for name in dict.fromkeys(names) if name != path and name.is_file()]


def _has_place(file: Path) -> bool:
    """Whether a file beside an image says where that lies."""
    kind = file.suffix.lower()
    if kind in (".prj", ".msk", ".ige"):  # a system without coordinates; pixels
        return False
    if kind != ".xml":
        return True
    try:
        with file.open("rb") as stream:
            text = stream.read(_XML_BYTES)
    except (OSError, struct.error):
        return False
    return any(mark in text for mark in _PLACE_XML)
