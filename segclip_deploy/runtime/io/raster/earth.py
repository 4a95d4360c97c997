"""From the coordinates of a raster to longitude and latitude, where there is such a place at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.runtime.io.raster.gdal import gdal_errors

__all__ = ["WGS84", "Lattice", "project", "to_earth"]

WGS84 = "OGC:CRS84"
"""Longitude and latitude in degrees, in this order."""

_MOST_CELLS = 256  # of a lattice, along an axis
_ROUND_TRIP = 0.1  # of a pixel
_MOST_TOLD = 20  # points that fail, of a call, before GDAL holds its tongue
_CYLINDERS = re.compile(r'PROJECTION\["(\w*Mercator_\dSP|Popular_Vis|Equirect|Cylindrical|Miller)')
"""Projections whose x goes round the Earth: beyond a full turn lies ground, too."""

Floats = NDArray[np.float64]


def project(source: Any, target: Any, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Coordinates (N,) in another system; infinite where PROJ knows no place.

    rasterio raises where a few of many points fail, and returns infinities where many do. So
    what raises is halved, until the points that fail stand alone. PROJ tells of 20 at most: if
    more fail alone, there is no way between the two systems at all.
    """
    warp = require("rasterio.warp", why="reading GeoTIFF")
    found = np.full((2, len(x)), np.inf)
    failed = 0
    waiting = [slice(0, len(x))] if len(x) else []
    while waiting:
        part = waiting.pop()
        try:
            found[:, part] = warp.transform(source, target, x[part].tolist(), y[part].tolist())
        except gdal_errors():
            if part.stop - part.start > 1:
                half = (part.start + part.stop) // 2
                waiting += [slice(half, part.stop), slice(part.start, half)]
                continue
            failed += 1
            if failed > _MOST_TOLD:
                return np.full(len(x), np.inf), np.full(len(x), np.inf)
    return found[0], found[1]


def to_earth(crs: Any, transform: Any, columns: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Longitude and latitude in degrees of places in a raster; NaN where they are off the Earth.

    A place is on the Earth where its latitude is one and the way back leads to the same place:
    some projections give every x a longitude, also beyond the edge of their map.

    Args:
        crs: of rasterio.
        transform: from (column, row) to the CRS, affine.
        columns: of any shape.
        rows: alike; 0.5, 0.5 is the middle of the first pixel.
    """
    a, b, c, d, e, f = transform[:6]
    x, y = (a * columns + b * rows + c).ravel(), (d * columns + e * rows + f).ravel()
    lon, lat = project(crs, WGS84, x, y)
    on = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90)
    if crs.is_geographic:
        on &= np.abs(lon) <= 360
    elif not _CYLINDERS.search(crs.to_wkt()):
        back_x, back_y = project(WGS84, crs, lon[on], lat[on])
        with np.errstate(invalid="ignore"):  # infinity less infinity
            away = np.hypot(back_x - x[on], back_y - y[on])
        on[on] = away <= _ROUND_TRIP * np.sqrt(abs(a * e - b * d))
    lon, lat = np.where(on, lon, np.nan), np.where(on, lat, np.nan)
    return lon.reshape(columns.shape), lat.reshape(columns.shape)


class Lattice:
    """Nodes over a raster, at which something is known, and where it has to be asked for each pixel.

    Args:
        height: of the raster; pixels, or corners of pixels.
        width: alike.
        ask: rows (N,) and columns (N,) → values (N,), NaN off the Earth.
    """

    def __init__(self, height: int, width: int, ask: Callable[[Floats, Floats], Floats]) -> None:
        self._rows, self._columns = _nodes(height), _nodes(width)
        self._width, self._ask = width, ask
        down, across = np.meshgrid(self._rows, self._columns, indexing="ij")
        self.values = ask(down.ravel(), across.ravel()).reshape(down.shape)

    @property
    def share_off(self) -> float:
        """Share of the nodes off the Earth."""
        return float(np.isnan(self.values).mean())

    def between(self, top: int, bottom: int) -> Floats:
        """Values (bottom − top, W) of some rows: linear between nodes, asked for at the Earth's edge."""
        rows, columns = np.arange(top, bottom, dtype=np.float64), np.arange(self._width)
        cell_rows, down = _cells(self._rows, rows)
        cell_columns, across = _cells(self._columns, columns)
        last_row, last_column = len(self._rows) - 1, len(self._columns) - 1
        below, beside = (
            np.minimum(cell_rows + 1, last_row),
            np.minimum(cell_columns + 1, last_column),
        )
        corners = [
            self.values[np.ix_(r, c)] for r in (cell_rows, below) for c in (cell_columns, beside)
        ]
        down, across = down[:, None], across[None]
        upper = corners[0] * (1 - across) + corners[1] * across
        lower = corners[2] * (1 - across) + corners[3] * across
        values = upper * (1 - down) + lower * down
        off = np.isnan(corners)
        mixed = off.any(axis=0) & ~off.all(axis=0)
        if mixed.any():
            at_row, at_column = np.nonzero(mixed)
            values[mixed] = self._ask(rows[at_row], columns[at_column].astype(np.float64))
        return values


def _nodes(length: int) -> Floats:
    return np.unique(np.linspace(0, length - 1, min(length, _MOST_CELLS + 1)).round())


def _cells(nodes: Floats, places: NDArray[Any]) -> tuple[NDArray[np.intp], Floats]:
    """The node before each place, and how far it is to the next, from 0 to 1."""
    before = np.clip(np.searchsorted(nodes, places, side="right") - 1, 0, max(len(nodes) - 2, 0))
    if len(nodes) == 1:
        return before, np.zeros(len(places))
    return before, (places - nodes[before]) / (nodes[before + 1] - nodes[before])
