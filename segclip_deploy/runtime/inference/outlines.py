"""Connected pixels of one class as polygons, and as features of GeoJSON (RFC 7946)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, Vocabulary

__all__ = ["area_of", "feature", "outlines"]

N = TypeVar("N", int, float)
Ring = Sequence[tuple[N, N]]
"""Corners (x, y); the last is the first."""


def outlines(
    labels: Any, *, mask: NDArray[np.bool_] | None = None, transform: Any = None
) -> Iterator[tuple[dict[str, Any], int]]:
    """Polygons of connected pixels of one class, which connect along their sides, and that class.

    Args:
        labels: (H, W) uint8 class indices, or a band of rasterio, which GDAL reads row by row.
        mask: (H, W), False where there is nothing to draw. ``IGNORE_INDEX`` is never drawn.
        transform: from columns and rows to coordinates; None: these are the coordinates.

    Raises:
        MissingDependency: rasterio is not installed.
    """
    features = require("rasterio.features", why="drawing polygons")
    placed = {} if transform is None else {"transform": transform}
    shapes = features.shapes(labels, mask=mask, connectivity=4, **placed)
    return ((shape, int(value)) for shape, value in shapes if value != IGNORE_INDEX)


def feature(shape: dict[str, Any], index: int, vocabulary: Vocabulary) -> dict[str, Any]:
    """A polygon, or several, of a class; outer rings turn left where y goes up, and holes right."""
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


def area_of(polygon: Sequence[Ring[int]]) -> int:
    """Pixels inside a polygon whose rings turn as those of ``feature``: holes count against it."""
    return sum(_doubled_area(ring) for ring in polygon) // 2


def _turned(ring: list[tuple[N, N]], *, left: bool) -> list[tuple[N, N]]:
    """The ring, counterclockwise if it is the outer one, clockwise if it is a hole."""
    return ring if (_doubled_area(ring) > 0) == left else ring[::-1]


def _doubled_area(ring: Ring[N]) -> N:
    """Twice the area by the shoelace formula, positive where the ring turns left."""
    x0, y0 = ring[0]
    return sum(
        (ax - x0) * (by - y0) - (bx - x0) * (ay - y0) for (ax, ay), (bx, by) in pairwise(ring)
    )
