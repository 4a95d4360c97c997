"""Where a raster lies, however its file says so; the right places come from the numbers written."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio import warp
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC

from segclip_deploy._optional import install_command
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.errors import BadInput, MissingDependency
from segclip_deploy.runtime.formats.georeference import find_georeference
from segclip_deploy.runtime.io.raster.pixels import read_window
from segclip_deploy.runtime.io.raster.segment import settings_digest
from segclip_deploy.runtime.io.sources.listing import find_files
from tests.runtime.formats.test_geotiff import write_geotiff
from tests.support.fakes import classes_of
from tests.support.rasters import (
    HALF_METRE,
    describe,
    label,
    noise,
    segmenter,
    write_raster,
)

WORLD = "0.5\n0\n0\n-0.5\n346000.25\n5647999.75\n"  # the middle of the first pixel


def picture(path: Path, pixels: Any = None) -> Path:
    """A plain image."""
    pixels = noise(70, 100) if pixels is None else pixels
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(path)
    return path


def prj(path: Path, code: int = 25832) -> None:
    path.with_suffix(".prj").write_text(CRS.from_epsg(code).to_wkt(version="WKT1_ESRI"))


def check_labels(path: Path, pixels: Any, out: Path, **reading: Any) -> None:
    """The labels lie where the half-metre raster of UTM 32 N lies, and are those of its pixels."""
    result = label(path, out, **reading)
    with rasterio.open(out) as dataset:
        assert dataset.crs == CRS.from_epsg(25832)
        assert dataset.transform.almost_equals(HALF_METRE)
        np.testing.assert_array_equal(dataset.read(1), classes_of(pixels.transpose(1, 2, 0)))
    total = sum(area["m2"] for area in result.areas.values())
    # a UTM raster's ground: its squares over the scale 0.99988 of the projection, squared
    assert total == pytest.approx(pixels[0].size / 4, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "world"),
    [
        ("a.tif", "a.tfw"),
        ("a.tif", "a.TFW"),
        ("a.tif", "a.wld"),
        ("a.tiff", "a.tfw"),
        ("a.png", "a.pgw"),
        ("a.png", "a.pngw"),
        ("a.bmp", "a.bpw"),
    ],
)
@pytest.mark.faults
def test_a_world_file_and_a_prj_place_an_image(tmp_path: Path, name: str, world: str) -> None:
    path = picture(tmp_path / name)
    assert find_georeference(path) is None
    prj(path)
    assert find_georeference(path) is None
    (tmp_path / world).write_text(WORLD)
    place = find_georeference(path)
    assert place is not None
    assert place.signs == (world,)
    check_labels(path, noise(70, 100), tmp_path / "out.tif")


def test_a_jpeg_with_a_world_file_is_placed(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (40, 30), (9, 200, 30)).save(path)
    (tmp_path / "a.jgw").write_text(WORLD)
    prj(path)
    raster = describe(path, segmenter())
    assert raster.transform.almost_equals(HALF_METRE)
    assert raster.crs == CRS.from_epsg(25832)


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
@pytest.mark.faults
def test_an_aux_xml_places_an_image(tmp_path: Path, name: str) -> None:
    path = picture(tmp_path / name)
    aux = tmp_path / f"{name}.aux.xml"
    aux.write_text("<PAMDataset><Histograms/></PAMDataset>")  # as QGIS leaves it
    assert find_georeference(path) is None
    aux.write_text(
        "<PAMDataset><SRS>EPSG:25832</SRS>"
        "<GeoTransform>346000, 0.5, 0, 5648000, 0, -0.5</GeoTransform></PAMDataset>"
    )
    check_labels(path, noise(70, 100), tmp_path / "out.tif")


@pytest.mark.parametrize(
    ("name", "driver", "options"),
    [
        ("a.jp2", "JP2OpenJPEG", {"QUALITY": "100", "REVERSIBLE": "YES"}),
        ("a.img", "HFA", {}),
        ("a.vrt", "VRT", {}),
        ("jp2_without_suffix", "JP2OpenJPEG", {"QUALITY": "100", "REVERSIBLE": "YES"}),
        ("a.ortho", "COG", {}),
    ],
)
@pytest.mark.faults
def test_formats_are_known_by_their_content(
    tmp_path: Path, name: str, driver: str, options: dict[str, str]
) -> None:
    source = write_raster(tmp_path / "source.tif", noise(70, 100))
    made = tmp_path / "made.jp2"  # by its suffix GDAL chooses between boxes and a bare codestream
    rasterio.shutil.copy(source, made, driver=driver, **options)
    made.rename(tmp_path / name)
    # An .img does not say which of its bands is red.
    bands = {"bands": (1, 2, 3)} if driver == "HFA" else {}
    check_labels(tmp_path / name, noise(70, 100), tmp_path / "out.tif", **bands)


def test_a_folder_is_searched_for_them(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.JP2", "b.img", "c.vrt", "d.tif", "e.tif.ovr", "f.tfw", "g.xml"):
        (tmp_path / "in" / name).touch()
    found = find_files([tmp_path / "in"], tmp_path / "out")
    assert [file.path.name for file in found] == ["a.JP2", "b.img", "c.vrt", "d.tif"]


# ---- ground control points and RPCs


def turned_points(crs: str) -> tuple[list[GroundControlPoint], Any]:
    """Four corners of 100×70 pixels, turned by 30°, and (row, column) → UTM 32 N by arithmetic."""
    cos, sin = 0.5 * np.cos(np.pi / 6), 0.5 * np.sin(np.pi / 6)

    def utm(row: Any, column: Any) -> tuple[Any, Any]:
        return 346000 + cos * column - sin * row, 5648000 - sin * column - cos * row

    points = []
    for row in (0, 70):
        for column in (0, 100):
            x, y = utm(row, column)
            (x,), (y,) = warp.transform("EPSG:25832", crs, [x], [y])
            points.append(GroundControlPoint(row, column, x, y))
    return points, utm


def at(dataset: Any, x: Any, y: Any) -> Any:
    """Values of a dataset at places."""
    column, row = rasterio.transform.rowcol(dataset.transform, x, y)[::-1]
    return dataset.read(1)[row.astype(int), column.astype(int)]


@pytest.mark.parametrize("crs", ["EPSG:25832", "EPSG:4326"])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.faults
def test_ground_control_points_turn_an_image_to_where_they_say(
    tmp_path: Path, crs: str, alpha: bool
) -> None:
    points, utm = turned_points(crs)
    values = noise(7, 10).repeat(10, 1).repeat(10, 2)
    clear = np.full((1, 70, 100), 255, np.uint8)
    clear[:, 30:40, 50:60] = 0
    path = write_raster(
        tmp_path / "a.tif",
        np.concatenate([values, clear]) if alpha else values,
        transform=None,
        crs=crs,
        gcps=points,
        colours=None,
        **({"alpha": "YES"} if alpha else {}),
        photometric="RGB",
    )
    raster = describe(path, segmenter())
    assert any("its place is 4 ground control points: turned to EPSG:" in n for n in raster.notes)
    assert raster.metres == pytest.approx((0.5, 0.5), rel=0.2)
    label(path, tmp_path / "out.tif")
    expected = classes_of(values.transpose(1, 2, 0))
    if alpha:
        expected[clear[0] == 0] = IGNORE_INDEX
    rows, columns = (a.ravel() for a in np.mgrid[5:70:10, 5:100:10])  # middles of the blocks
    x, y = utm(rows + 0.5, columns + 0.5)
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.transform.b == dataset.transform.d == 0
        x, y = warp.transform("EPSG:25832", dataset.crs, x, y)
        np.testing.assert_array_equal(
            at(dataset, np.array(x), np.array(y)), expected[rows, columns]
        )
        assert dataset.read(1)[0, 0] == IGNORE_INDEX  # outside of the image


@pytest.mark.parametrize("height", [0.0, 400.0])
@pytest.mark.faults
def test_rpcs_turn_an_image_to_where_they_say(tmp_path: Path, height: float) -> None:
    """RPCs that are linear: sample = 50 + 50 (lon − 7) / 0.001, line = 35 − 35 (lat − 50.9) / 0.0007."""
    one, zero = [1.0] + [0.0] * 19, [0.0] * 17
    rpcs = RPC(
        height_off=height,
        height_scale=100,
        lat_off=50.9,
        lat_scale=0.0007,
        line_off=35,
        line_scale=35,
        long_off=7.0,
        long_scale=0.001,
        samp_off=50,
        samp_scale=50,
        line_num_coeff=[0.0, 0.0, -1.0, *zero],
        line_den_coeff=one,
        samp_num_coeff=[0.0, 1.0, 0.0, 0.2, *zero[1:]],  # 0.2: of the height above height_off
        samp_den_coeff=one,
        err_bias=None,
        err_rand=None,
    )
    values = noise(7, 10).repeat(10, 1).repeat(10, 2)
    path = write_raster(tmp_path / "a.tif", values, transform=None, crs=None, rpcs=rpcs)
    raster = describe(path, segmenter())
    assert raster.crs == CRS.from_epsg(32632)
    assert any(f"RPCs, at a height of {height:g} m" in note for note in raster.notes)
    label(path, tmp_path / "out.tif")
    rows, columns = (a.ravel() for a in np.mgrid[5:70:10, 5:100:10])
    lon, lat = 7 + (columns + 0.5 - 50) / 50 * 0.001, 50.9 - (rows + 0.5 - 35) / 35 * 0.0007
    x, y = warp.transform("EPSG:4326", "EPSG:32632", lon, lat)
    with rasterio.open(tmp_path / "out.tif") as dataset:
        found = at(dataset, np.array(x), np.array(y))
    np.testing.assert_array_equal(found, classes_of(values.transpose(1, 2, 0))[rows, columns])


def test_a_mask_and_nodata_of_a_turned_image_are_its_own(tmp_path: Path) -> None:
    points, _ = turned_points("EPSG:25832")
    values = np.full((3, 70, 100), 9, np.uint8)
    mask = np.full((70, 100), 255, np.uint8)
    mask[:, :20] = 0
    values[:, :, 80:] = 0
    path = write_raster(
        tmp_path / "a.tif", values, transform=None, gcps=points, mask=mask, nodata=0
    )
    pixels, valid = read_window(describe(path, segmenter()))
    ground = 70 * 60 * 0.25  # m² between the masked columns and those of nodata
    cell = describe(path, segmenter()).transform.determinant
    assert valid.sum() * abs(cell) == pytest.approx(ground, rel=0.02)
    assert (pixels[valid] == 9).all()


# ---- places that cannot be read, and no place


@pytest.mark.parametrize("kind", ["GeoTIFF keys", "tie points", "a.tfw"])
@pytest.mark.faults
def test_a_place_that_cannot_be_read_is_said(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    if kind == "a.tfw":
        picture(path)
        (tmp_path / kind).write_text("no numbers\n" * 6)
    else:
        write_geotiff(path, 0.5, {1024: 1, 3072: 25832}, image=Image.new("RGB", (40, 30)))
        drop = (33550, 33922) if kind == "GeoTIFF keys" else (33550, 34735)
        tags = Image.open(path).tag_v2
        for tag in drop:
            del tags[tag]
        Image.new("RGB", (40, 30)).save(tmp_path / "b.tif", tiffinfo=tags)
        (tmp_path / "b.tif").replace(path)
    raster = describe(path, segmenter())
    assert any(
        kind in note and "which cannot be read: areas in m² stay unknown" in note
        for note in raster.notes
    )
    result = label(path, tmp_path / "out.tif")
    assert all(area["m2"] is None for area in result.areas.values())


def test_a_jpeg_2000_without_a_place_says_so(tmp_path: Path) -> None:
    picture(tmp_path / "a.jp2")
    assert describe(tmp_path / "a.jp2", segmenter()).notes == (
        "does not say where its pixels lie: areas in m² stay unknown",
    )


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"%PDF-1.4", b"SQLite format 3\0", b"<html>", b"\x89HDF\r\n"]
)
def test_other_formats_of_gdal_are_not_opened(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content * 50)
    (tmp_path / "a.tfw").write_text(WORLD)
    assert find_georeference(path) is None
    with pytest.raises(BadInput, match="in no format of rasters that is read here"):
        describe(path, segmenter())


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.bmp", "a.webp"])
def test_an_ordinary_image_costs_no_rasterio(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = picture(tmp_path / name)
    real = builtins.__import__

    def no_rasterio(module: str, *args: Any) -> Any:
        assert not module.startswith("rasterio")
        return real(module, *args)

    monkeypatch.setattr(builtins, "__import__", no_rasterio)
    assert find_georeference(path) is None


@pytest.mark.faults
def test_without_rasterio_a_file_with_a_place_is_no_plain_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = picture(tmp_path / "a.png")
    (tmp_path / "a.pgw").write_text(WORLD)
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    assert find_georeference(path) is not None
    with pytest.raises(MissingDependency, match=r"a\.png has a place") as caught:
        describe(path, segmenter())
    assert install_command("geo") in str(caught.value)


def test_files_beside_a_raster_are_part_of_what_decides_its_labels(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.tif")
    (tmp_path / "a.tfw").write_text(WORLD)

    def digest(**reading: Any) -> str:
        return settings_digest(segmenter(), describe(path, segmenter(), **reading), "engine")

    seen = [digest()]
    prj(path)
    seen.append(digest())
    (tmp_path / "a.tfw").write_text(WORLD.replace("346000", "346001"))
    seen.append(digest())
    os.utime(tmp_path / "a.tfw", ns=(1, 1))
    seen += [digest(), digest(ignore_alpha=True), digest(allow_remote=True)]
    Image.new("L", (100, 70), 255).save(tmp_path / "a.tif.msk", "TIFF")
    seen.append(digest())
    assert len(set(seen)) == len(seen) - 1  # --ignore-alpha changes nothing where there is no alpha
