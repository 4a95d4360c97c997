"""Labels as polygons: GeoJSON in WGS 84."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from segclip_deploy._optional import require
from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, Vocabulary
from segclip_deploy.errors import BadInput, command
from segclip_deploy.runtime.io.raster.source import Raster, opened

__all__ = ["check_polygons", "write_polygons"]

_DECIMALS = 8  # of degrees: a millimetre
_AT_ONCE = 1000  # polygons brought to WGS 84 in one call


def check_polygons(raster: Raster) -> None:
    """Refuse what has no place on the Earth.

    Raises:
        BadInput: no coordinate reference system, or one that is nowhere.
    """
    if raster.metres is None:
        raise BadInput(
            "has no coordinate reference system that leads to WGS 84, which GeoJSON is in",
            where=raster.path,
            fix="leave out --polygons, or name it, e.g. "
            + command("rio", "edit-info", "--crs", "EPSG:32632", raster.path),
        )


def write_polygons(labels: Path, vocabulary: Vocabulary, out: Path) -> int:
    """Write connected pixels of one class as polygons with the properties class and index (RFC 7946).

    Pixels connect along their sides. GDAL reads the labels row by row and holds all polygons, some
    hundred bytes each and 16 a corner, before the first is written.

    Returns:
        How many.

    Raises:
        OSError: the file could not be written.
    """
    features = require("rasterio.features", why="writing polygons")
    rasterio = require("rasterio", why="writing polygons")
    count = 0
    with opened(labels) as dataset, replace_file(out) as temporary:
        shapes: Iterator[tuple[dict[str, Any], float]] = features.shapes(
            rasterio.band(dataset, 1), connectivity=4, transform=dataset.transform
        )
        labelled = ((shape, int(value)) for shape, value in shapes if value != IGNORE_INDEX)
        with temporary.open("w", encoding="utf-8") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            while some := list(islice(labelled, _AT_ONCE)):
                moved = _moved([shape for shape, _ in some], dataset.crs)
                for shape, (_, index) in zip(moved, some, strict=True):
                    file.write(",\n" if count else "\n")
                    json.dump(_feature(shape, index, vocabulary), file)
                    count += 1
            file.write("\n]}\n")
    return count


def _moved(shapes: list[dict[str, Any]], crs: Any) -> list[dict[str, Any]]:
    """Polygons in WGS 84; one across the antimeridian is cut there, and becomes several.

    All corners at once: rasterio's ``transform_geom`` takes 75 times as long, and is left what it cuts.
    """
    warp = require("rasterio.warp", why="writing polygons")
    corners = [corner for shape in shapes for ring in shape["coordinates"] for corner in ring]
    lon, lat = warp.transform(crs, "EPSG:4326", *map(list, zip(*corners, strict=True)))
    points = iter(
        [(round(x, _DECIMALS), round(y, _DECIMALS)) for x, y in zip(lon, lat, strict=True)]
    )
    moved = []
    for shape in shapes:
        rings = [list(islice(points, len(ring))) for ring in shape["coordinates"]]
        across = [x for x, _ in rings[0]]
        if max(across) - min(across) > 180:
            moved.append(warp.transform_geom(crs, "EPSG:4326", shape, precision=_DECIMALS))
        else:
            moved.append({"type": "Polygon", "coordinates": rings})
    return moved


def _feature(shape: dict[str, Any], index: int, vocabulary: Vocabulary) -> dict[str, Any]:
    several = shape["type"] == "MultiPolygon"
    polygons = [
        [_turned(ring, left=number == 0) for number, ring in enumerate(rings)]
        for rings in (shape["coordinates"] if several else [shape["coordinates"]])
    ]
    coordinates = polygons if several else polygons[0]
    return {
        "type": "Feature",
        "properties": {"class": vocabulary.names[index], "index": index},
        "geometry": {"type": shape["type"], "coordinates": coordinates},
    }


def _turned(ring: list[tuple[float, float]], *, left: bool) -> list[tuple[float, float]]:
    """The ring, counterclockwise if it is the outer one, clockwise if it is a hole."""
    x0, y0 = ring[0]
    doubled = sum(
        (ax - x0) * (by - y0) - (bx - x0) * (ay - y0) for (ax, ay), (bx, by) in pairwise(ring)
    )
    return ring if (doubled > 0) == left else ring[::-1]
