"""Polygons: GeoJSON as RFC 7946 has it, and the same ground as the labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio import features, warp

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.raster.polygons import check_polygons, write_polygons
from tests.support.rasters import DUBAI, describe, label, labels_in, noise, segmenter, write_raster


def polygons_of(tmp_path: Path, **profile: Any) -> tuple[Path, list[dict[str, Any]]]:
    """A label map with nodata and holes, and its polygons."""
    blocks = noise(12, 15).repeat(6, 1).repeat(6, 2)
    mask = np.full(blocks.shape[1:], 255, np.uint8)
    mask[10:40, 20:50] = 0
    out = tmp_path / "out.tif"
    label(write_raster(tmp_path / "a.tif", blocks, mask=mask, **profile), out)
    count = write_polygons(out, DUBAI, tmp_path / "out.geojson")
    collection = json.loads((tmp_path / "out.geojson").read_text())
    assert set(collection) == {"type", "features"}  # no crs: it is WGS 84
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == count.count
    return out, collection["features"]


def doubled_area(ring: list[list[float]]) -> float:
    x, y = np.array(ring).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())


def test_polygons_drawn_again_are_the_labels(tmp_path: Path) -> None:
    out, found = polygons_of(tmp_path)
    with rasterio.open(out) as dataset:
        shapes = [
            (
                warp.transform_geom("EPSG:4326", dataset.crs, feature["geometry"]),
                feature["properties"]["index"],
            )
            for feature in found
        ]
        drawn = features.rasterize(
            shapes, dataset.shape, fill=IGNORE_INDEX, transform=dataset.transform, dtype="uint8"
        )
    np.testing.assert_array_equal(drawn, labels_in(out))
    for feature in found:
        assert feature["type"] == "Feature"
        assert feature["properties"]["class"] == DUBAI.names[feature["properties"]["index"]]


@pytest.mark.parametrize("flipped", [False, True])
def test_outer_rings_turn_left_and_holes_right_in_longitude_and_latitude(
    tmp_path: Path, flipped: bool
) -> None:
    transform = rasterio.Affine(0.5, 0, 346000, 0, 0.5 if flipped else -0.5, 5648000)
    _, found = polygons_of(tmp_path, transform=transform)
    holes = 0
    for feature in found:
        outer, *inner = feature["geometry"]["coordinates"]
        assert outer[0] == outer[-1]
        lon, lat = np.array(outer).T
        assert ((lon > 6.7) & (lon < 6.9) & (lat > 50.9) & (lat < 51)).all()
        shifted = [(np.array(ring) - outer[0]).tolist() for ring in (outer, *inner)]
        assert doubled_area(shifted[0]) > 0
        assert all(doubled_area(ring) < 0 for ring in shifted[1:])
        holes += len(inner)
    assert holes > 0


def test_a_polygon_across_the_antimeridian_is_cut(tmp_path: Path) -> None:
    (x,), (y,) = warp.transform("EPSG:4326", "EPSG:32660", [180], [70])
    transform = rasterio.Affine(0.5, 0, x - 100, 0, -0.5, y)
    pixels = np.zeros((3, 60, 400), np.uint8)
    source = write_raster(tmp_path / "a.tif", pixels, crs="EPSG:32660", transform=transform)
    label(source, tmp_path / "out.tif")
    write_polygons(tmp_path / "out.tif", DUBAI, tmp_path / "out.geojson")
    (feature,) = json.loads((tmp_path / "out.geojson").read_text())["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    for (outer,) in feature["geometry"]["coordinates"]:
        assert np.ptp([lon for lon, _ in outer]) < 1
        assert doubled_area((np.array(outer) - outer[0]).tolist()) > 0


def test_polygons_of_a_raster_that_is_nowhere_are_refused(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", noise(20, 30), crs=None)
    with pytest.raises(BadInput, match="no coordinate reference system that leads to WGS 84"):
        check_polygons(describe(source, segmenter()))
