"""GeoTIFF headers: metres per pixel."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import rasterio
from PIL import Image, TiffImagePlugin

from segclip_deploy.runtime.formats.georeference import find_georeference
from segclip_deploy.runtime.formats.geotiff import ground_sample_distance
from tests.conftest import SHARED

PROJECTED, GEOGRAPHIC = 1, 2
METRE, FOOT, US_FOOT = 9001, 9002, 9003


def write_geotiff(
    path: Path,
    step: float,
    keys: dict[int, int],
    *,
    image: Image.Image | None = None,
    northing: float = 0.0,
    matrix: bool = False,
) -> Path:
    """A GeoTIFF with square pixels; with a transformation matrix, turned by 30°."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()

    def put(tag: int, kind: int, values: tuple[Any, ...]) -> None:
        tags.tagtype[tag] = kind
        tags[tag] = values

    if matrix:
        c, s = step * math.cos(math.pi / 6), step * math.sin(math.pi / 6)
        put(34264, 12, (c, -s, 0.0, 0.0, -s, -c, 0.0, northing, *[0.0] * 7, 1.0))
    else:
        put(33550, 12, (step, step, 0.0))
        put(33922, 12, (0.0, 0.0, 0.0, 0.0, northing, 0.0))
    entries = [value for key, value in sorted(keys.items()) for value in (key, 0, 1, value)]
    put(34735, 3, (1, 1, 0, len(keys), *entries))
    (image or Image.new("RGB", (4, 4))).save(path, "TIFF", tiffinfo=tags)
    return path


@pytest.mark.parametrize(
    ("step", "keys", "options", "metres"),
    [
        (0.25, {1024: PROJECTED, 3076: METRE}, {}, 0.25),
        (0.25, {1024: PROJECTED, 3076: METRE}, {"matrix": True}, 0.25),
        (1.0, {1024: PROJECTED, 3076: FOOT}, {}, 0.3048),
        (1.0, {1024: PROJECTED, 3076: US_FOOT}, {}, 0.3048006),
        # 60° north, where Web Mercator doubles every length
        (1.0, {1024: PROJECTED, 3072: 3857, 3076: METRE}, {"northing": 8399737.89}, 0.5),
        # a degree of the meridian, 111.3 km on a sphere of the equator's radius
        (1e-5, {1024: GEOGRAPHIC, 2054: 9102}, {}, 1.11319),
        (1.0, {1024: PROJECTED}, {}, None),  # of no stated unit
        (1.0, {1024: PROJECTED, 3076: 9036}, {}, None),  # kilometres, which nobody uses
        (0.0, {1024: PROJECTED, 3076: METRE}, {}, None),
    ],
    ids=[
        "metres",
        "turned",
        "feet",
        "US feet",
        "Mercator",
        "degrees",
        "no unit",
        "odd unit",
        "zero",
    ],
)
def test_a_header_says_how_large_a_pixel_is(
    tmp_path: Path, step: float, keys: dict[int, int], options: dict[str, Any], metres: float | None
) -> None:
    found = ground_sample_distance(write_geotiff(tmp_path / "geo.tif", step, keys, **options))
    assert found == (metres and pytest.approx(metres, rel=1e-5))


def test_what_is_no_geotiff_has_no_known_pixel_size(tmp_path: Path) -> None:
    plain, text, png = (tmp_path / name for name in ("plain.tif", "text.tif", "image.png"))
    Image.new("RGB", (4, 4)).save(plain)
    Image.new("RGB", (4, 4)).save(png)
    text.write_text("no image")
    for path in (plain, text, png, tmp_path / "missing.tif"):
        assert ground_sample_distance(path) is None


@pytest.mark.parametrize("matrix", [False, True])
def test_a_tiff_with_a_transformation_find_place(tmp_path: Path, matrix: bool) -> None:
    assert find_georeference(write_geotiff(tmp_path / "geo.tif", 0.5, {}, matrix=matrix))
    plain = tmp_path / "plain.tif"
    Image.new("RGB", (4, 4)).save(plain)
    (tmp_path / "short.tif").write_bytes(plain.read_bytes()[:9])
    (tmp_path / "text.tif").write_text("no image")
    for path in (plain, tmp_path / "short.tif", tmp_path / "text.tif", tmp_path):
        assert not find_georeference(path)


def test_headers_of_tiffs_larger_than_pillow_opens_are_read(tmp_path: Path) -> None:
    """A BigTIFF of 10⁹ pixels, five bands and 16 bits, of which nothing is stored."""
    path = tmp_path / "large.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=10**5,
        width=10**4,
        count=5,
        dtype="uint16",
        crs="EPSG:25832",
        transform=rasterio.Affine(0.25, 0, 3e5, 0, -0.25, 5e6),
        tiled=True,
        bigtiff="YES",
        sparse_ok=True,
    ):
        pass
    assert find_georeference(path)
    assert ground_sample_distance(path) == 0.25


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "metres"),
    [
        ("oem_koeln_50.tif", 0.5),
        ("naip5m_20090818.tif", 5.0),
        ("riotiler_pix4d_alpha_nodata.tif", 0.3527),
        ("rasterio_cogeo_0p6m.tif", 0.4727),  # 0.5972 in Web Mercator, at 37.7° north
    ],
)
def test_real_headers_are_understood(name: str, metres: float) -> None:
    found = ground_sample_distance(SHARED / "geotiff_real" / name)
    assert found == pytest.approx(metres, abs=1e-4)
