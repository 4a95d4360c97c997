"""The one door to GDAL: what it may do, and its errors as ours."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segclip_deploy._optional import require
from segclip_deploy.errors import BadInput

__all__ = ["environment", "gdal_errors", "opened", "translated"]

_CACHE = 128 << 20
"""Bytes of GDAL's block cache; a twentieth of the machine's memory if nobody says."""

_CLOSED = {
    # The only file that may be read over the network: none has this name.
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "/segclip-deploy/reads/no/network",
    "PROJ_NETWORK": "OFF",
}


def environment(*, allow_remote: bool = False) -> Any:
    """GDAL for the thread that enters it: a bounded block cache, no Python of a file, no network.

    Args:
        allow_remote: whether it may read over the network.
    """
    rasterio = require("rasterio", why="reading GeoTIFF")
    closed = {} if allow_remote else _CLOSED
    return rasterio.Env(GDAL_CACHEMAX=_CACHE, GDAL_VRT_ENABLE_PYTHON="NO", **closed)


def gdal_errors() -> tuple[type[Exception], ...]:
    """Every class of exception that rasterio raises for what is in a file; they share no base class."""
    errors = require("rasterio.errors", why="reading GeoTIFF")
    low = require("rasterio._err", why="reading GeoTIFF")  # raised by warp, named nowhere else
    # Names and texts in a file may be bytes that are no UTF-8.
    return (errors.RasterioError, errors.CRSError, low.CPLE_BaseError, UnicodeDecodeError)


@contextmanager
def translated(where: Path, what: str = "damaged or unreadable") -> Iterator[None]:
    """Whatever GDAL or PROJ says inside, as ``BadInput``.

    Args:
        where: the file that it is about.
        what: went wrong, a phrase; GDAL's own words follow in parentheses.

    Raises:
        BadInput: in place of any exception of GDAL.
    """
    try:
        yield
    except gdal_errors() as error:
        raise BadInput(f"{what} ({error.__cause__ or error})", where=where) from error


@contextmanager
def opened(path: Path | str, driver: str = "GTiff", *, allow_remote: bool = False) -> Iterator[Any]:
    """A dataset of rasterio, for the thread that opens it.

    Args:
        path: a file, or the XML of a VRT.
        driver: of GDAL, the only one that is tried.
        allow_remote: whether GDAL may read over the network.

    Raises:
        BadInput: GDAL cannot open it, or cannot read it while the body runs.
        MissingDependency: no rasterio.
    """
    rasterio = require("rasterio", why="reading GeoTIFF")
    where = path if isinstance(path, Path) else Path("VRT")
    with translated(where), environment(allow_remote=allow_remote):
        with warnings.catch_warnings():
            # It says that there is no place, which is said with more words elsewhere.
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            dataset = rasterio.open(path, driver=driver)
        with dataset:
            yield dataset
