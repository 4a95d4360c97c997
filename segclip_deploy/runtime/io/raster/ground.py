"""How large the pixels of a raster are on the ground, whatever its coordinate reference system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, UNLABELLED
from segclip_deploy.runtime.formats.geotiff import EARTH
from segclip_deploy.runtime.io.raster.earth import Lattice, to_earth

__all__ = ["AreaCount", "PixelAreas", "measure_areas", "on_earth", "pixel_metres"]

_ECCENTRICITY_2 = 0.00669437999014  # of the ellipsoid of WGS 84
_SAMPLES = 257  # rows whose size is computed; between them it is interpolated
_COLUMNS = 9  # in which it is looked whether a column makes a difference
_ALIKE = 1e-3  # areas of one row that differ by less are taken for one
_SIDES = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])  # left, right, top, bottom
_NEAR = 0.01  # of a pixel: from its middle to where its size is taken at the edge of the Earth


def pixel_metres(
    crs: Any, transform: Any, rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Width and height in metres and area in m² of pixels: (N, 3), NaN of those off the Earth.

    The middles of a pixel's four sides, as longitude and latitude on WGS 84, times the radii of
    curvature along meridian and parallel (Snyder, Map Projections, 1987, equations 4-18 to 4-20).
    So degrees, feet and Web Mercator's stretching are all taken for what they are on the ground.
    A pixel is on the Earth if its middle is; one across the edge counts whole.

    Args:
        crs: of rasterio.
        transform: from (column, row) to the CRS, affine.
        rows: (N,) of the pixels, from 0.
        columns: (N,) alike.
    """
    metres = _metres(crs, transform, rows, columns, 0.5)
    edge = np.isnan(metres[:, 2])
    if edge.any():
        metres[edge] = _metres(crs, transform, rows[edge], columns[edge], _NEAR)
    return metres


def _metres(
    crs: Any,
    transform: Any,
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    reach: float,
) -> NDArray[np.float64]:
    """As above, of the ground within ``reach`` pixels of the middles."""
    places = _SIDES[:, :, None] * reach + 0.5
    found = to_earth(crs, transform, places[:, 0] + columns, places[:, 1] + rows)
    lon, lat = np.radians(found)
    squeeze = 1 - _ECCENTRICITY_2 * np.sin(lat.mean(0)) ** 2
    parallel = EARTH / np.sqrt(squeeze) * np.cos(lat.mean(0))
    meridian = EARTH * (1 - _ECCENTRICITY_2) / squeeze**1.5
    turn = (lon[1::2] - lon[::2] + np.pi) % (2 * np.pi) - np.pi  # across the antimeridian, too
    east_x, east_y = turn * parallel / (2 * reach)
    north_x, north_y = (lat[1::2] - lat[::2]) * meridian / (2 * reach)
    metres = np.stack(
        [
            np.hypot(east_x, north_x),
            np.hypot(east_y, north_y),
            np.abs(east_x * north_y - east_y * north_x),
        ],
        axis=1,
    )
    metres[~(metres > 0).all(axis=1)] = np.nan
    return metres


@dataclass(frozen=True)
class PixelAreas:
    """m² of the pixels of a raster.

    Attributes:
        by_row: (H,), where all pixels of a row are alike; None where the column matters.
        lattice: of all pixels, where it does.
        share_off: share of the pixels off the Earth, about; they have no area.
    """

    by_row: NDArray[np.float64] | None
    lattice: Lattice | None
    share_off: float

    def rows(self, top: int, bottom: int) -> NDArray[np.float64]:
        """m² of each pixel of some rows: (h, 1) or (h, W); 0 off the Earth."""
        if self.by_row is not None:
            return self.by_row[top:bottom, None]
        assert self.lattice is not None
        return np.nan_to_num(self.lattice.between(top, bottom), nan=0.0)


def measure_areas(crs: Any, transform: Any, height: int, width: int) -> PixelAreas | None:
    """The areas of a raster's pixels; None where none of them has a place on the Earth."""
    if crs is None:
        return None

    def ask(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
        return pixel_metres(crs, transform, rows, columns)[:, 2]

    rows = np.linspace(0, height - 1, min(height, _SAMPLES))
    columns = np.linspace(0, width - 1, min(width, _COLUMNS))
    down, across = np.meshgrid(rows, columns, indexing="ij")
    areas = ask(down.ravel(), across.ravel()).reshape(down.shape)
    middle = ask(rows, np.full(len(rows), (width - 1) / 2))
    if np.isfinite(areas).all() and (np.ptp(areas, axis=1) <= _ALIKE * middle).all():
        return PixelAreas(np.interp(np.arange(height), rows, middle), None, 0.0)
    lattice = Lattice(height, width, ask)
    return None if lattice.share_off == 1 else PixelAreas(None, lattice, lattice.share_off)


def on_earth(crs: Any, transform: Any, height: int, width: int) -> NDArray[np.bool_] | None:
    """Which pixels lie on the Earth with all four corners: (H, W); None where all do."""

    def ask(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
        return to_earth(crs, transform, columns, rows)[0] * 0  # 0, or NaN

    lattice = Lattice(height + 1, width + 1, ask)
    if not lattice.share_off:
        return None
    on = np.empty((height, width), np.bool_)
    for top in range(0, height, _SAMPLES):
        bottom = min(top + _SAMPLES, height)
        corners = np.isfinite(lattice.between(top, bottom + 1))
        across = corners[:, 1:] & corners[:, :-1]
        on[top:bottom] = across[1:] & across[:-1]
    return on


class AreaCount:
    """Pixels and m² of each class, counted as rows come.

    Args:
        names: of the classes.
        areas: of the pixels; None where unknown.
    """

    def __init__(self, names: tuple[str, ...], areas: PixelAreas | None) -> None:
        self._names = names
        self._areas = areas
        self._pixels = np.zeros(len(names) + 1, np.int64)  # the last: without a class
        self._metres = np.zeros(len(names) + 1)

    def add(self, top: int, labels: NDArray[np.uint8]) -> None:
        """Count rows (h, W) that begin at row ``top``."""
        values = [*range(len(self._names)), IGNORE_INDEX]
        rows = np.stack([np.count_nonzero(labels == value, axis=1) for value in values])
        self._pixels += rows.sum(axis=1)
        if self._areas is None:
            return
        metres = self._areas.rows(top, top + len(labels))
        if metres.shape[1] == 1:
            self._metres += rows @ metres[:, 0]
        else:
            sums = np.bincount(labels.ravel(), metres.ravel(), minlength=IGNORE_INDEX + 1)
            self._metres += sums[values]

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Pixels, share of all pixels and m² (None where unknown) by class, and of ``unlabelled`` if any."""
        total = int(self._pixels.sum())
        return {
            name: {
                "pixels": int(pixels),
                "share": round(float(pixels / total), 6) if total else 0.0,
                "m2": None if self._areas is None else round(float(metres), 2),
            }
            for name, pixels, metres in zip(
                (*self._names, UNLABELLED), self._pixels, self._metres, strict=True
            )
            if pixels or name != UNLABELLED
        }
