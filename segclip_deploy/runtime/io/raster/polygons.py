"""Labels as polygons: GeoJSON in WGS 84."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from segclip_deploy._optional import require
from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, Vocabulary
from segclip_deploy.errors import BadInput, command
from segclip_deploy.runtime.inference.outlines import feature, outlines
from segclip_deploy.runtime.io.raster.earth import WGS84, project
from segclip_deploy.runtime.io.raster.gdal import opened
from segclip_deploy.runtime.io.raster.ground import on_earth
from segclip_deploy.runtime.io.raster.source import Raster

__all__ = ["Polygons", "check_polygons", "write_polygons"]

_DECIMALS = 8  # of degrees: a millimetre
_AT_ONCE = 1000  # polygons brought to WGS 84 in one call

_RADIUS = 6371000.0
_PACIFIC = f"+proj=eqc +lon_0=180 +R={_RADIUS} +units=m +no_defs"
"""A map that is whole across the antimeridian, as metres; GDAL cuts at its middle."""


@dataclass(frozen=True)
class Polygons:
    """What was written.

    Attributes:
        count: polygons.
        off_earth: labelled pixels that do not lie on the Earth with all corners: cut off.
        left_out: polygons of which a corner has no place all the same.
    """

    count: int
    off_earth: int
    left_out: int

    @property
    def note(self) -> str | None:
        """What is to be said of what has no polygon."""
        parts = [f"{self.off_earth} labelled pixels"] * bool(self.off_earth)
        parts += [f"{self.left_out} polygons"] * bool(self.left_out)
        return (
            f"{' and '.join(parts)} off the Earth are left out of the polygons" if parts else None
        )


def check_polygons(raster: Raster) -> None:
    """Refuse what has no place on the Earth.

    Raises:
        BadInput: no coordinate reference system, or one that is nowhere.
    """
    if raster.metres is None:
        edit = command("rio", "edit-info", "--crs", "EPSG:32632", raster.path)
        raise BadInput(
            "has no coordinate reference system that leads to WGS 84, which GeoJSON is in",
            where=raster.path,
            fix="leave out --polygons"
            + (f", or name it, e.g. for UTM 32 N: {edit}" if raster.crs is None else ""),
        )


def write_polygons(labels: Path, vocabulary: Vocabulary, out: Path) -> Polygons:
    """Write connected pixels of one class as polygons with the properties class and index (RFC 7946).

    Pixels connect along their sides. What lies off the Earth is cut away, by whole pixels. GDAL
    reads the labels row by row and holds all polygons, some hundred bytes each and 16 a corner,
    before the first is written; where something lies off the Earth, a byte a pixel, too.

    Raises:
        BadInput: the label map is damaged, or GDAL knows no way from its CRS to WGS 84.
        OSError: the file could not be written.
    """
    rasterio = require("rasterio", why="writing polygons")
    count = left_out = off_earth = 0
    with opened(labels) as dataset, replace_file(out) as temporary:
        on = on_earth(dataset.crs, dataset.transform, *dataset.shape)
        if on is not None:
            off_earth = int((~on & (dataset.read(1) != IGNORE_INDEX)).sum())
        labelled = outlines(rasterio.band(dataset, 1), mask=on, transform=dataset.transform)
        with temporary.open("w", encoding="utf-8") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            while some := list(islice(labelled, _AT_ONCE)):
                moved = _moved([shape for shape, _ in some], dataset.crs)
                for shape, (_, index) in zip(moved, some, strict=True):
                    if shape is None:
                        left_out += 1
                        continue
                    file.write(",\n" if count else "\n")
                    json.dump(feature(shape, index, vocabulary), file)
                    count += 1
            file.write("\n]}\n")
    return Polygons(count, off_earth, left_out)


def _moved(shapes: list[dict[str, Any]], crs: Any) -> list[dict[str, Any] | None]:
    """Polygons in WGS 84; one across the antimeridian is cut there, and becomes several.

    All corners at once: rasterio's ``transform_geom`` takes 75 times as long, and is left what it
    cuts. None stands for a polygon with a corner off the Earth.
    """
    corners = [corner for shape in shapes for ring in shape["coordinates"] for corner in ring]
    x, y = np.array(corners, np.float64).T
    lon, lat = project(crs, WGS84, x, y)
    places = iter(np.stack([lon, lat], axis=1))
    moved: list[dict[str, Any] | None] = []
    for shape in shapes:
        rings = [np.array(list(islice(places, len(ring)))) for ring in shape["coordinates"]]
        ground = np.concatenate(rings)
        if not (np.isfinite(ground).all() and (np.abs(ground[:, 1]) <= 90).all()):
            moved.append(None)
        elif np.ptp(rings[0][:, 0]) > 180 or np.abs(ground[:, 0]).max() > 180:
            moved.append(_cut(rings))
        else:
            moved.append({"type": "Polygon", "coordinates": [_rounded(ring) for ring in rings]})
    return moved


def _rounded(ring: Any) -> list[tuple[float, float]]:
    return [(round(x, _DECIMALS), round(y, _DECIMALS)) for x, y in ring.tolist()]


def _cut(rings: list[Any]) -> dict[str, Any]:
    """A polygon across the antimeridian, or beyond it: longitudes from −180 to 180, cut where they jump."""
    warp = require("rasterio.warp", why="writing polygons")
    east = [ring % (360, np.inf) for ring in rings]
    if np.concatenate(east)[:, 0].min() >= 180:  # beyond it as a whole
        return {"type": "Polygon", "coordinates": [_rounded(ring - (360, 0)) for ring in east]}
    metres = [np.radians(ring - (180, 0)) * _RADIUS for ring in east]
    shape = {"type": "Polygon", "coordinates": [ring.tolist() for ring in metres]}
    found: dict[str, Any] = warp.transform_geom(_PACIFIC, WGS84, shape, precision=_DECIMALS)
    return found
