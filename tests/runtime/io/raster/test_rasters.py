"""GeoTIFF in, labels as Cloud-Optimized GeoTIFF out: what is read, what is refused, what is written."""

from __future__ import annotations

import math
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.io.raster.cog import DIGEST_TAG
from segclip_deploy.runtime.io.raster.seams import seam_score
from segclip_deploy.runtime.io.raster.segment import segment_raster
from tests.conftest import SHARED
from tests.runtime.inference.test_stitching import Moody
from tests.support.fakes import classes_of
from tests.support.rasters import (
    DUBAI,
    RGB,
    describe,
    label,
    labels_in,
    noise,
    segmenter,
    write_raster,
)

PROPERTY = settings(derandomize=True, deadline=None, max_examples=15)


def hwc(bands: Any) -> Any:
    return np.ascontiguousarray(np.asarray(bands).transpose(1, 2, 0))


def test_the_output_is_a_cog_on_the_rasters_own_grid(tmp_path: Path) -> None:
    pixels = noise(700, 1100)
    source = write_raster(tmp_path / "a.tif", pixels, tiled=True, compress="deflate")
    result = label(source, tmp_path / "out.tif")
    assert {p.name for p in tmp_path.iterdir()} == {"a.tif", "out.tif", "out.tif.aux.xml"}
    assert cog_validate(result.labels, strict=True, quiet=True) == (True, [], [])
    with rasterio.open(result.labels) as dataset, rasterio.open(source) as given:
        assert (dataset.shape, dataset.count, dataset.dtypes) == ((700, 1100), 1, ("uint8",))
        assert (dataset.crs, dataset.transform) == (given.crs, given.transform)
        assert dataset.nodata == IGNORE_INDEX
        assert dataset.block_shapes == [(512, 512)]
        assert dataset.overviews(1) == [2, 4]
        assert dataset.colorinterp == (ColorInterp.palette,)
        colours = [dataset.colormap(1)[index] for index in range(5)]
        assert colours == [(*entry.colour, 255) for entry in DUBAI.classes]
        assert dataset.colormap(1)[IGNORE_INDEX][3] == 0
        assert dataset.tags(1) == {f"CLASS_{i}": name for i, name in enumerate(DUBAI.names)}
        assert len(dataset.tags()[DIGEST_TAG]) == 64
        expected = classes_of(hwc(pixels))
        np.testing.assert_array_equal(dataset.read(1), expected)
        small = dataset.read(1, out_shape=(350, 550))
    assert set(np.unique(small)) <= set(range(5))
    sidecar = (tmp_path / "out.tif.aux.xml").read_text()
    assert tuple(re.findall("<Category>(.*)</Category>", sidecar)) == DUBAI.names
    assert {name: area["pixels"] for name, area in result.areas.items()} == {
        name: (expected == index).sum() for index, name in enumerate(DUBAI.names)
    }


@PROPERTY
@given(
    size=st.tuples(st.integers(1, 600), st.integers(1, 300)),
    tiled=st.booleans(),
    logits=st.booleans(),
)
def test_labels_are_those_of_the_same_pixels_as_a_frame(
    tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int], tiled: bool, logits: bool
) -> None:
    folder = tmp_path_factory.mktemp("raster")
    pixels = noise(*size)
    profile = {"tiled": True, "blockxsize": 128, "blockysize": 128} if tiled else {}
    source = write_raster(folder / "a.tif", pixels, **profile)
    flyer = segmenter(Moody(64, 96, 3, min_batch=1, logits=logits))
    result = label(source, folder / "out.tif", flyer)
    whole = flyer.segment(Frame(hwc(pixels), "whole"))
    assert labels_in(result.labels).tobytes() == whole.labels.tobytes()
    assert result.windows == whole.windows


@pytest.mark.parametrize("metres", [None, 0.25])
def test_memory_is_that_of_some_rows(tmp_path: Path, metres: float | None) -> None:
    """A raster three times as high needs no more."""

    def peak(height: int) -> int:
        source = write_raster(tmp_path / f"{height}.tif", noise(height, 600), compress="deflate")
        flyer = segmenter(metres=metres)
        raster = describe(source, flyer)
        tracemalloc.start()
        segment_raster(flyer, raster, tmp_path / f"out{height}.tif", digest="")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(3600) < 1.5 * peak(1200)  # threads are not always equally far


# ---- pixels without ground


def holes(height: int, width: int) -> Any:
    """255 where there is ground: not in a corner as large as several windows, nor in some dots."""
    mask = np.full((height, width), 255, np.uint8)
    mask[: height // 2, : width // 2] = 0
    mask[::7, ::5] = 0
    return mask


@pytest.mark.parametrize("kind", ["alpha", "nodata", "mask"])
@pytest.mark.parametrize("logits", [False, True])
def test_masked_pixels_get_no_label_and_windows_of_them_are_not_run(
    tmp_path: Path, kind: str, logits: bool
) -> None:
    pixels, mask = noise(300, 400), holes(300, 400)
    path = tmp_path / "a.tif"
    if kind == "alpha":
        source = write_raster(
            path, np.concatenate([pixels, mask[None]]), colours=(*RGB, ColorInterp.alpha)
        )
    elif kind == "nodata":
        pixels = np.maximum(pixels, 1)
        pixels[0, :, 200:] = 0  # of one band only: that is ground
        source = write_raster(path, pixels * (mask != 0), nodata=0)
    else:
        source = write_raster(path, pixels, mask=mask)
    flyer = segmenter(logits=logits)
    result = label(source, tmp_path / "out.tif", flyer)
    read = pixels * (mask != 0) if kind == "nodata" else pixels
    whole = flyer.segment(Frame(hwc(read), "whole"))
    expected = np.where(mask, whole.labels, IGNORE_INDEX)
    np.testing.assert_array_equal(labels_in(result.labels), expected)
    assert result.windows < whole.windows
    assert result.areas["unlabelled"]["pixels"] == (mask == 0).sum()
    assert sum(area["pixels"] for area in result.areas.values()) == 300 * 400


# ---- bands and values


def test_bands_are_found_by_their_colours_and_it_is_said(tmp_path: Path) -> None:
    red, green, blue = noise(70, 100)
    source = write_raster(
        tmp_path / "a.tif",
        np.stack([red[::-1], blue, green, red]),
        colours=(ColorInterp.undefined, ColorInterp.blue, ColorInterp.green, ColorInterp.red),
    )
    flyer = segmenter()
    assert describe(source, flyer).notes == ("bands 4, 3, 2 of 4 are its red, green and blue",)
    label(source, tmp_path / "out.tif", flyer)
    expected = classes_of(np.stack([red, green, blue], axis=-1))
    np.testing.assert_array_equal(labels_in(tmp_path / "out.tif"), expected)


def test_bands_that_cannot_be_told_apart_are_refused_until_they_are_named(tmp_path: Path) -> None:
    pixels = noise(70, 100)
    source = write_raster(tmp_path / "a.tif", pixels, colours=None, photometric="MINISBLACK")
    with pytest.raises(BadInput, match=r"which of its 3 bands.*--bands 1,2,3"):
        describe(source, segmenter())
    label(source, tmp_path / "out.tif", bands=(3, 2, 1))
    np.testing.assert_array_equal(labels_in(tmp_path / "out.tif"), classes_of(hwc(pixels[::-1])))
    with pytest.raises(BadInput, match="has 3 bands, not 4"):
        describe(source, segmenter(), bands=(4, 3, 2))


def test_one_band_is_refused(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", noise(70, 100)[:1], colours=None)
    with pytest.raises(BadInput, match="1 band, and the model takes red, green and blue"):
        describe(source, segmenter())


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_more_than_8_bits_need_a_scale(tmp_path: Path, dtype: str) -> None:
    levels = noise(70, 100)
    values = (levels.astype(np.float64) * 10 + 100).astype(dtype)
    values[:, 0, :2] = 0, 3000  # beyond the scale, where it is clipped
    levels[:, 0, :2] = 0, 255
    source = write_raster(tmp_path / "a.tif", values)
    with pytest.raises(BadInput, match=f"values are {dtype}.*--scale LOW,HIGH"):
        describe(source, segmenter())
    label(source, tmp_path / "out.tif", scale=(100, 2650))
    np.testing.assert_array_equal(labels_in(tmp_path / "out.tif"), classes_of(hwc(levels)))


def test_what_is_no_number_gets_no_label(tmp_path: Path) -> None:
    values = noise(70, 100).astype(np.float32)
    values[1, 10:20, 30:40] = np.nan
    values[2, 50, 60] = np.inf
    label(write_raster(tmp_path / "a.tif", values), tmp_path / "out.tif", scale=(0, 255))
    nowhere = labels_in(tmp_path / "out.tif") == IGNORE_INDEX
    np.testing.assert_array_equal(nowhere, ~np.isfinite(values).all(0))


@pytest.mark.parametrize("profile", [{}, {"compress": "deflate"}, {"tiled": True}])
@pytest.mark.faults
def test_a_truncated_file_is_refused_and_leaves_nothing(
    tmp_path: Path, profile: dict[str, Any]
) -> None:
    source = write_raster(tmp_path / "a.tif", noise(700, 500), **profile)
    source.write_bytes(source.read_bytes()[:700_000])
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInput, match=r"a\.tif: damaged or unreadable"):
        label(source, tmp_path / "out" / "out.tif")
    assert not any((tmp_path / "out").iterdir())


# ---- scale on the ground


@pytest.mark.parametrize(("metres", "seen"), [(1.0, (160, 220)), (0.25, (640, 880))])
def test_a_raster_of_another_scale_is_resampled_and_its_labels_brought_back(
    tmp_path: Path, metres: float, seen: tuple[int, int]
) -> None:
    blocks = noise(8, 11).repeat(40, 1).repeat(40, 2)
    source = write_raster(tmp_path / "a.tif", blocks)
    flyer = segmenter(metres=metres)
    raster = describe(source, flyer)
    assert raster.grid.model == seen
    assert "resampled to" in raster.notes[0]
    result = label(source, tmp_path / "out.tif", flyer)
    got, expected = labels_in(result.labels), classes_of(hwc(blocks))
    assert got.shape == expected.shape
    inner = (np.arange(320) % 40 // 4 % 9 > 0)[:, None] & (np.arange(440) % 40 // 4 % 9 > 0)
    np.testing.assert_array_equal(got[inner], expected[inner])  # away from interpolated borders
    assert result.windows == flyer.segment(Frame(np.zeros((*seen, 3), np.uint8), "")).windows


@pytest.mark.parametrize("metres", [None, 0.42, 0.6])
def test_a_raster_of_the_models_scale_is_left_alone(tmp_path: Path, metres: float | None) -> None:
    source = write_raster(tmp_path / "a.tif", noise(70, 100))
    raster = describe(source, segmenter(metres=metres))
    assert not raster.grid.resampled
    assert raster.notes == ()


def test_a_raster_far_too_coarse_is_refused_unless_its_scale_is_kept(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", noise(70, 100))
    with pytest.raises(BadInput, match=r"10 times the model's 0\.05 m.*--keep-scale"):
        describe(source, segmenter(metres=0.05))
    assert not describe(source, segmenter(metres=0.05), keep_scale=True).grid.resampled


def test_a_turned_raster_is_resampled_on_its_own_axes(tmp_path: Path) -> None:
    c, s = 0.5 * math.cos(math.pi / 6), 0.5 * math.sin(math.pi / 6)
    turned = rasterio.Affine(c, -s, 346000, -s, -c, 5648000)
    blocks = noise(4, 5).repeat(40, 1).repeat(40, 2)
    source = write_raster(tmp_path / "a.tif", blocks, transform=turned)
    flyer = segmenter(metres=1.0)
    assert describe(source, flyer).grid.model == (80, 100)
    label(source, tmp_path / "out.tif", flyer)
    got, expected = labels_in(tmp_path / "out.tif"), classes_of(hwc(blocks))
    assert (got == expected)[20::40, 20::40].all()
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.transform.almost_equals(turned)


# ---- areas


@pytest.mark.parametrize(
    ("profile", "metres"),
    [
        ({}, 0.25),
        # a foot
        ({"crs": "EPSG:2263", "transform": rasterio.Affine(1, 0, 9.8e5, 0, -1, 1.9e5)}, 0.0929),
        # Web Mercator at 60° north, where it doubles both sides
        ({"crs": "EPSG:3857", "transform": rasterio.Affine(1, 0, 0, 0, -1, 8399737.89)}, 0.25),
        # 1e-5°: 1.1132 m along the equator, half of it at 60° north; 1.1141 m of the meridian there
        ({"crs": "EPSG:4326", "transform": rasterio.Affine(1e-5, 0, 8, 0, -1e-5, 60)}, 0.6217),
        ({"crs": None}, None),
    ],
    ids=["metres", "feet", "Mercator", "degrees", "none"],
)
def test_areas_are_those_on_the_ground(
    tmp_path: Path, profile: dict[str, Any], metres: float | None
) -> None:
    source = write_raster(tmp_path / "a.tif", noise(70, 100), **profile)
    result = label(source, tmp_path / "out.tif")
    for area in result.areas.values():
        expected = metres and pytest.approx(metres * area["pixels"], rel=7e-3)
        assert area["m2"] == expected


def test_the_area_of_degrees_is_that_of_their_band_of_the_ellipsoid(tmp_path: Path) -> None:
    """One degree square from the equator north: 12 308.8 km² on WGS 84 (half of a band between parallels)."""
    transform = rasterio.Affine(0.01, 0, 8, 0, -0.01, 1)
    source = write_raster(tmp_path / "a.tif", noise(100, 100), crs="EPSG:4326", transform=transform)
    total = sum(area["m2"] for area in label(source, tmp_path / "out.tif").areas.values())
    eccentricity, axis = 0.0818191908426, 6378137.0
    s = np.sin(np.radians(1.0))
    q = s / (1 - (eccentricity * s) ** 2) + np.arctanh(eccentricity * s) / eccentricity
    band = axis**2 * (1 - eccentricity**2) / 2 * q * np.radians(1.0)
    assert total == pytest.approx(band, rel=1e-6)


# ---- seams


def test_an_engine_that_sees_single_pixels_leaves_no_seams(tmp_path: Path) -> None:
    source, flyer = write_raster(tmp_path / "a.tif", noise(200, 300)), segmenter()
    labels = label(source, tmp_path / "out.tif", flyer).labels
    score = seam_score(flyer, describe(source, flyer), labels)
    assert score.pixels > 1000
    assert score.share == 0


@pytest.mark.parametrize("logits", [False, True])
def test_seams_are_what_a_shifted_tiling_says_along_the_borders(
    tmp_path: Path, logits: bool
) -> None:
    pixels = noise(128, 224)  # two rows and three columns of windows of 64×96, 16 shared
    source = write_raster(tmp_path / "a.tif", pixels)
    flyer = segmenter(Moody(64, 96, 3, min_batch=1, logits=logits))
    labels = label(source, tmp_path / "out.tif", flyer).labels
    score = seam_score(flyer, describe(source, flyer), labels)
    first = flyer.segment(Frame(hwc(pixels), "")).labels
    # Windows begin at rows 0, 48, 64 and columns 0, 80, 128; the shifted ones half-way between.
    second = flyer.segment(Frame(hwc(pixels[:, 24:120, 40:200]), "")).labels
    near = np.zeros((128, 224), bool)
    for row in (56, 88):
        near[row - 4 : row + 4] = True
    for column in (88, 152):
        near[:, column - 4 : column + 4] = True
    near = near[24:120, 40:200]
    assert score.pixels == near.sum()
    assert score.differing == (near & (first[24:120, 40:200] != second)).sum() > 0


def test_one_window_has_no_seams(tmp_path: Path) -> None:
    source, flyer = write_raster(tmp_path / "a.tif", noise(60, 90)), segmenter()
    labels = label(source, tmp_path / "out.tif", flyer).labels
    assert seam_score(flyer, describe(source, flyer), labels).share is None


# ---- real files


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "reading"),
    [
        ("oem_koeln_50", {}),
        ("rasterio_cogeo_0p6m", {}),
        ("riotiler_pix4d_alpha_nodata", {}),
        ("naip5m_20090818", {"bands": (1, 2, 3)}),
        ("naip5m_20200831", {"bands": (1, 2, 3)}),
    ],
)
def test_real_rasters_are_labelled(tmp_path: Path, name: str, reading: dict[str, Any]) -> None:
    source = SHARED / "geotiff_real" / f"{name}.tif"
    if reading:
        with pytest.raises(BadInput, match="which of its 4 bands"):
            describe(source, segmenter())
    result = label(source, tmp_path / "out.tif", **reading)
    assert cog_validate(result.labels, strict=True, quiet=True) == (True, [], [])
    with rasterio.open(source) as given, rasterio.open(result.labels) as dataset:
        assert (dataset.shape, dataset.crs) == (given.shape, given.crs)
        assert dataset.transform == given.transform
        expected = classes_of(given.read([1, 2, 3]).transpose(1, 2, 0))
        expected[given.dataset_mask() == 0] = IGNORE_INDEX
        np.testing.assert_array_equal(dataset.read(1), expected)
