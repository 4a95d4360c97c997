"""How large the pixels of a raster are on the ground, whatever its coordinate reference system."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, UNLABELLED
from segclip_deploy.runtime.io.raster.geotiff import EARTH

__all__ = ["AreaCount", "pixel_metres", "row_areas"]

_ECCENTRICITY_2 = 0.00669437999014  # of the ellipsoid of WGS 84
_SAMPLES = 257  # rows whose size is computed; between them it is interpolated


def pixel_metres(
    crs: Any, transform: Any, rows: NDArray[np.float64], column: float
) -> NDArray[np.float64] | None:
    """Width and height in metres and area in m² of pixels: (N, 3), or None where that is unknown.

    The middles of a pixel's four sides, as longitude and latitude on WGS 84, times the radii of
    curvature along meridian and parallel (Snyder, Map Projections, 1987, equations 4-18 to 4-20).
    So degrees, feet and Web Mercator's stretching are all taken for what they are on the ground.

    Args:
        crs: of rasterio, or None.
        transform: from (column, row) to the CRS, affine.
        rows: (N,) of the pixels.
        column: the column of all of them.
    """
    if crs is None:
        return None
    warp = require("rasterio.warp", why="reading GeoTIFF")
    sides = np.array([[0.0, 0.5], [1.0, 0.5], [0.5, 0.0], [0.5, 1.0]])  # left, right, top, bottom
    across = (column + sides[:, :1] + 0 * rows).ravel()
    down = (rows + sides[:, 1:]).ravel()
    a, b, c, d, e, f = transform[:6]
    x, y = a * across + b * down + c, d * across + e * down + f
    try:
        found = warp.transform(crs, "EPSG:4326", x.tolist(), y.tolist())
    except Exception:  # GDAL's errors share no public base class: no way from this CRS to the Earth
        return None
    lon, lat = np.radians(found).reshape(2, 4, len(rows))
    squeeze = 1 - _ECCENTRICITY_2 * np.sin(lat.mean(0)) ** 2
    parallel = EARTH / np.sqrt(squeeze) * np.cos(lat.mean(0))
    meridian = EARTH * (1 - _ECCENTRICITY_2) / squeeze**1.5
    turn = (lon[1::2] - lon[::2] + np.pi) % (2 * np.pi) - np.pi  # across the antimeridian, too
    (east_x, east_y), (north_x, north_y) = turn * parallel, (lat[1::2] - lat[::2]) * meridian
    metres = np.stack(
        [
            np.hypot(east_x, north_x),
            np.hypot(east_y, north_y),
            np.abs(east_x * north_y - east_y * north_x),
        ],
        axis=1,
    )
    return metres if np.isfinite(metres).all() and (metres > 0).all() else None


def row_areas(crs: Any, transform: Any, height: int, width: int) -> NDArray[np.float64] | None:
    """Area of a pixel of each row in m², (height,), taken in the middle column; None where unknown."""
    rows = np.linspace(0, height - 1, min(height, _SAMPLES))
    metres = pixel_metres(crs, transform, rows, (width - 1) / 2)
    return None if metres is None else np.interp(np.arange(height), rows, metres[:, 2])


class AreaCount:
    """Pixels and m² of each class, counted as rows come.

    Args:
        names: of the classes.
        row_areas: m² of a pixel in each row; None where unknown.
    """

    def __init__(self, names: tuple[str, ...], row_areas: NDArray[np.float64] | None) -> None:
        self._names = names
        self._row_areas = row_areas
        self._pixels = np.zeros(len(names) + 1, np.int64)  # the last: without a class
        self._metres = np.zeros(len(names) + 1)

    def add(self, top: int, labels: NDArray[np.uint8]) -> None:
        """Count rows (h, W) that begin at row ``top``."""
        values = [*range(len(self._names)), IGNORE_INDEX]
        rows = np.stack([np.count_nonzero(labels == value, axis=1) for value in values])
        self._pixels += rows.sum(axis=1)
        if self._row_areas is not None:
            self._metres += rows @ self._row_areas[top : top + len(labels)]

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Pixels, share of all pixels and m² (None where unknown) by class, and of ``unlabelled`` if any."""
        total = int(self._pixels.sum())
        return {
            name: {
                "pixels": int(pixels),
                "share": round(float(pixels / total), 6) if total else 0.0,
                "m2": None if self._row_areas is None else round(float(metres), 2),
            }
            for name, pixels, metres in zip(
                (*self._names, UNLABELLED), self._pixels, self._metres, strict=True
            )
            if pixels or name != UNLABELLED
        }
