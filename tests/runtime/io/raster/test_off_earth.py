"""Rasters of which a part lies off the Earth: areas and polygons of the rest, and no exception of PROJ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio import Affine, features, warp

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.raster.earth import project
from segclip_deploy.runtime.io.raster.gdal import translated
from segclip_deploy.runtime.io.raster.polygons import Polygons, write_polygons
from tests.support.rasters import DUBAI, describe, label, labels_in, noise, segmenter, write_raster

AXIS, ECCENTRICITY_2 = 6378137.0, 0.00669437999014

MOLLWEIDE = {
    "crs": "+proj=moll +ellps=WGS84",
    "transform": Affine(1000, 0, -17840000, 0, -1000, 1500000),
}
SINUSOIDAL = {  # as MODIS comes; PROJ gives a longitude to every x, also beyond the map
    "crs": "+proj=sinu +R=6371007.181",
    "transform": Affine(2000, 0, 9.9e6, 0, -2000, 6.7e6),
}
GEOSTATIONARY = {
    "crs": "+proj=geos +h=35785831 +ellps=WGS84",
    "transform": Affine(4000, 0, -5.0e6, 0, -4000, 2.5e6),
}
DEGREES = {"crs": "EPSG:4326", "transform": Affine(0.02, 0, 10, 0, -0.02, 90.5)}  # beyond the pole


def middles(transform: Affine, size: int) -> Any:
    column, row = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    return transform.a * column + transform.c, transform.e * row + transform.f


def ellipsoid(latitude: Any) -> Any:
    """m² per square radian of longitude and latitude at a latitude, on WGS 84."""
    squeeze = 1 - ECCENTRICITY_2 * np.sin(latitude) ** 2
    return AXIS**2 * (1 - ECCENTRICITY_2) / squeeze**2 * np.cos(latitude)


def mollweide(transform: Affine) -> Any:
    """m² of each pixel, 0 off the map; Snyder, Map Projections, 1987, 31-1 to 31-7."""
    x, y = middles(transform, 96)
    theta = np.arcsin(y / (np.sqrt(2) * AXIS))
    latitude = np.arcsin((2 * theta + np.sin(2 * theta)) / np.pi)
    longitude = np.pi * x / (2 * np.sqrt(2) * AXIS * np.cos(theta))
    sphere = AXIS**2 * np.cos(latitude)  # the map keeps the areas of a sphere
    area = abs(transform.determinant) * ellipsoid(latitude) / sphere
    return np.where(np.abs(longitude) < np.pi, area, 0)


def sinusoidal(transform: Affine) -> Any:
    x, y = middles(transform, 96)
    latitude = y / 6371007.181
    longitude = x / (6371007.181 * np.cos(latitude))
    sphere = 6371007.181**2 * np.cos(latitude)
    area = abs(transform.determinant) * ellipsoid(latitude) / sphere
    return np.where(np.abs(longitude) < np.pi, area, 0)


def degrees(transform: Affine) -> Any:
    _, latitude = middles(transform, 96)
    area = ellipsoid(np.radians(latitude)) * np.radians(0.02) ** 2
    return np.where(latitude < 90, area, 0)


@pytest.mark.parametrize(
    ("profile", "areas"),
    [(MOLLWEIDE, mollweide), (SINUSOIDAL, sinusoidal), (DEGREES, degrees)],
    ids=["Mollweide", "sinusoidal", "degrees"],
)
@pytest.mark.faults
def test_areas_sum_what_lies_on_the_earth(
    tmp_path: Path, profile: dict[str, Any], areas: Any
) -> None:
    path = write_raster(tmp_path / "a.tif", noise(96, 96), **profile)
    expected = areas(profile["transform"])
    off = (expected == 0).mean()
    assert 0.05 < off < 0.95
    notes = describe(path, segmenter()).notes
    (told,) = (note for note in notes if "lies off the Earth, without m² and polygons" in note)
    assert float(told.split()[1]) == pytest.approx(100 * off, abs=2)
    result = label(path, tmp_path / "out.tif")
    labels = labels_in(tmp_path / "out.tif")
    assert (labels != IGNORE_INDEX).all()
    for index, name in enumerate(DUBAI.names):
        area = result.areas[name]
        assert area["pixels"] == (labels == index).sum()
        assert area["m2"] == pytest.approx(expected[labels == index].sum(), rel=2e-3)


@pytest.mark.parametrize("profile", [MOLLWEIDE, SINUSOIDAL, GEOSTATIONARY, DEGREES])
@pytest.mark.faults
def test_polygons_cover_the_pixels_that_lie_on_the_earth(
    tmp_path: Path, profile: dict[str, Any]
) -> None:
    pixels = noise(6, 6).repeat(16, 1).repeat(16, 2)
    path = write_raster(tmp_path / "a.tif", pixels, **profile)
    label(path, tmp_path / "out.tif")
    drawn = write_polygons(tmp_path / "out.tif", DUBAI, tmp_path / "out.geojson")
    found = json.loads((tmp_path / "out.geojson").read_text())["features"]
    assert drawn.count == len(found) > 0
    assert drawn.left_out == 0
    with rasterio.open(tmp_path / "out.tif") as dataset:
        shapes = [
            (
                warp.transform_geom("OGC:CRS84", dataset.crs, feature["geometry"]),
                feature["properties"]["index"],
            )
            for feature in found
        ]
        again = features.rasterize(
            shapes, dataset.shape, fill=IGNORE_INDEX, transform=dataset.transform, dtype="uint8"
        )
    labels = labels_in(tmp_path / "out.tif")
    drawn_again = again != IGNORE_INDEX
    np.testing.assert_array_equal(again[drawn_again], labels[drawn_again])
    assert (~drawn_again).sum() == drawn.off_earth
    assert 0 < drawn.off_earth < labels.size
    assert drawn.note == (
        f"{drawn.off_earth} labelled pixels off the Earth are left out of the polygons"
    )


def test_degrees_beyond_180_are_ground_and_cut_at_the_antimeridian(tmp_path: Path) -> None:
    transform = Affine(0.1, 0, 179, 0, -0.1, 10)
    path = write_raster(
        tmp_path / "a.tif", np.zeros((3, 20, 40), np.uint8), crs="EPSG:4326", transform=transform
    )
    result = label(path, tmp_path / "out.tif")
    latitude = np.radians(10 - 0.1 * (np.arange(20) + 0.5))
    expected = 40 * (ellipsoid(latitude) * np.radians(0.1) ** 2).sum()
    assert sum(a["m2"] for a in result.areas.values()) == pytest.approx(expected, rel=1e-5)
    drawn = write_polygons(tmp_path / "out.tif", DUBAI, tmp_path / "out.geojson")
    assert drawn == Polygons(1, 0, 0)
    (feature,) = json.loads((tmp_path / "out.geojson").read_text())["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    spans = [
        (min(x for x, _ in outer), max(x for x, _ in outer))
        for (outer,) in feature["geometry"]["coordinates"]
    ]
    assert sorted(spans) == [(-180, -177), (179, 180)]


def test_a_web_mercator_raster_across_the_antimeridian_is_all_ground(tmp_path: Path) -> None:
    transform = Affine(10, 0, 20037508.342789244 - 200, 0, -10, 1e6)
    path = write_raster(
        tmp_path / "a.tif", np.zeros((3, 20, 40), np.uint8), crs="EPSG:3857", transform=transform
    )
    assert describe(path, segmenter()).notes == ()
    label(path, tmp_path / "out.tif")
    assert write_polygons(tmp_path / "out.tif", DUBAI, tmp_path / "out.geojson").count == 1
    (feature,) = json.loads((tmp_path / "out.geojson").read_text())["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"


@pytest.mark.faults
def test_a_raster_that_is_nowhere_on_the_earth_has_labels_and_no_areas(tmp_path: Path) -> None:
    profile = {**MOLLWEIDE, "transform": Affine(1000, 0, -3e7, 0, -1000, 1500000)}
    path = write_raster(tmp_path / "a.tif", noise(40, 50), **profile)
    assert "all of it lies off the Earth" in describe(path, segmenter()).notes[0]
    result = label(path, tmp_path / "out.tif")
    assert all(area["m2"] is None for area in result.areas.values())


@pytest.mark.parametrize("failing", [1, 5, 19, 20, 21, 300])
def test_points_that_fail_cost_no_point_that_does_not(failing: int) -> None:
    """PROJ's errors reach Python as exceptions for few points, and as infinities for many."""
    x = np.zeros(1000)
    x[np.random.default_rng(0).permutation(1000)[:failing]] = -17840000.0
    lon, lat = project("+proj=moll +ellps=WGS84", "OGC:CRS84", x, np.full(1000, 1.5e6))
    np.testing.assert_array_equal(np.isfinite(lon), x == 0)
    np.testing.assert_array_equal(np.isfinite(lat), x == 0)


@pytest.mark.faults
def test_every_exception_of_gdal_and_proj_is_one_of_ours(tmp_path: Path) -> None:
    def bad_crs() -> None:
        rasterio.crs.CRS.from_string("EPSG:1")

    def bad_point() -> None:
        warp.transform("+proj=moll +ellps=WGS84", "EPSG:4326", [-17840000.0], [1500000.0])

    def bad_file() -> None:
        rasterio.open(tmp_path / "none.tif")

    for fail in (bad_crs, bad_point, bad_file):
        with pytest.raises(BadInput, match=r"^.*a\.tif: damaged"), translated(Path("a.tif")):
            fail()
