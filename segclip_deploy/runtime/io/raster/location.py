"""Where the pixels of a raster lie, or what to say if that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy._optional import require
from segclip_deploy.runtime.formats.georeference import (
    Georeference,
    find_georeference,
    side_files,
)
from segclip_deploy.runtime.io.raster.gdal import gdal_errors
from segclip_deploy.runtime.io.raster.validity import Validity
from segclip_deploy.runtime.io.raster.warp import Warp, check_warped, choose_warp

__all__ = ["Location", "locate"]


@dataclass(frozen=True)
class Location:
    """Where the pixels of a raster's grid lie.

    Attributes:
        crs: of rasterio; None where the file names none, or its place cannot be read.
        transform: affine, from (column, row) to the CRS.
        size: (H, W) of the grid.
        warp: to the grid, where the place is ground control points or RPCs.
        notes: what the user should know of it, a line each.
    """

    crs: Any
    transform: Any
    size: tuple[int, int]
    warp: Warp | None
    notes: tuple[str, ...]


def locate(
    dataset: Any, path: Path, driver: str, validity: Validity, *, allow_remote: bool
) -> Location:
    """Find the place of a raster: a transformation, else ground control points, else RPCs.

    Args:
        dataset: of rasterio.
        path: of its file; a .prj beside it names the CRS where the file does not.
        driver: of GDAL, which reads it.
        validity: of the raster; its masks are turned with it.
        allow_remote: whether GDAL may read over the network.

    Raises:
        BadInput: points that lead to a grid that cannot be.
    """
    signs = (find_georeference(path) or Georeference(driver, ())).signs
    crs, transform = dataset.crs or _beside(path), dataset.transform
    if transform.is_identity or not abs(transform.determinant) > 0:  # also of NaN
        warp = choose_warp(dataset, path, crs, masks=validity.masks)
        if warp is not None:
            with warp.over(allow_remote=allow_remote) as turned:
                said = check_warped(turned, warp, dataset, path)
                return Location(warp.crs, turned.transform, turned.shape, warp, (said,))
        lost = f"says that it has a place ({', '.join(signs)}), which cannot be read"
        said = f"{lost if signs else 'does not say where its pixels lie'}: areas in m² stay unknown"
        return Location(None, type(transform).identity(), dataset.shape, None, (said,))
    notes: tuple[str, ...] = ()
    if crs is None:
        keys = " that can be read" if "GeoTIFF keys" in signs or _prj(path) else ""
        notes = (f"no coordinate reference system{keys}: areas in m² stay unknown",)
    return Location(crs, transform, dataset.shape, None, notes)


def _prj(path: Path) -> Path | None:
    return next((file for file in side_files(path) if file.suffix.lower() == ".prj"), None)


def _beside(path: Path) -> Any:
    """The coordinate reference system of the .prj beside a file, which GDAL does not read for most."""
    file = _prj(path)
    if file is None:
        return None
    crs = require("rasterio.crs", why="reading GeoTIFF")
    errors: tuple[type[Exception], ...] = (OSError, ValueError, *gdal_errors())
    try:
        text = file.read_text(encoding="utf-8", errors="replace").strip()
        return crs.CRS.from_user_input(text, morph_from_esri_dialect=True)
    except errors:
        return None
