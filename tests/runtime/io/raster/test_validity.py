"""Which pixels are real: every right value is NumPy's, of the arrays that were written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image, TiffImagePlugin
from rasterio.enums import ColorInterp as Colour

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.idle_options import refuse_idle_options
from segclip_deploy.runtime.io.raster import pixels as raster_pixels
from segclip_deploy.runtime.io.raster.pixels import read_window, what_is_removed
from segclip_deploy.runtime.io.raster.source import Reading
from tests.support.rasters import RGB, describe, label, labels_in, noise, segmenter, write_raster

RGBN_ALPHA = (*RGB, Colour.undefined, Colour.alpha)
OUT = "out.tif"


def removed(path: Path, metres: float | None = None, **reading: Any) -> Any:
    """Where a raster gets no label."""
    label(path, path.with_name(OUT), segmenter(metres=metres), **reading)
    return labels_in(path.with_name(OUT)) == IGNORE_INDEX


def said(path: Path, **reading: Any) -> tuple[str, ...]:
    return what_is_removed(describe(path, segmenter(), **reading))


def bands(count: int) -> Any:
    """Blocks of 12×12, so that resampled values are the same within them."""
    blocks = np.random.default_rng(0).integers(1, 255, (count, 8, 9), dtype=np.uint8)
    return blocks.repeat(12, axis=1).repeat(12, axis=2)


def third(height: int = 96, width: int = 108) -> Any:
    """255, and 0 in the left third."""
    values = np.full((height, width), 255, np.uint8)
    values[:, : width // 3] = 0
    return values


# ---- alpha


@pytest.mark.parametrize("metres", [None, 0.2, 1.0], ids=["own", "enlarged", "made smaller"])
@pytest.mark.parametrize(
    ("colours", "alpha"),
    [
        ((*RGB, Colour.alpha), 4),  # as GDAL calls the near infrared of NAIP scenes
        (RGBN_ALPHA, 5),
        ((Colour.alpha, *RGB), 1),
        ((*RGB, Colour.alpha, Colour.undefined, Colour.undefined), 4),
    ],
    ids=["RGB + alpha", "RGB + NIR + alpha", "alpha first", "alpha in the middle"],
)
@pytest.mark.faults
def test_any_alpha_band_decides_what_is_real_at_any_scale(
    tmp_path: Path, colours: tuple[Colour, ...], alpha: int, metres: float | None
) -> None:
    values = bands(len(colours))
    values[alpha - 1] = third()
    path = write_raster(tmp_path / "a.tif", values, colours=colours)
    np.testing.assert_array_equal(removed(path, metres), third() == 0)
    assert said(path) == (f"alpha band {alpha} removes 33 % of the area; --ignore-alpha keeps it",)
    assert not removed(path, metres, ignore_alpha=True).any()
    assert said(path, ignore_alpha=True) == ()


@pytest.mark.parametrize("metres", [None, 0.2])
def test_ground_that_alpha_hid_has_its_own_colour_with_ignore_alpha(
    tmp_path: Path, metres: float | None
) -> None:
    """Resampled, too: GDAL's warper would make it black."""
    values = np.concatenate([bands(3), third()[None]])
    path = write_raster(tmp_path / "a.tif", values, colours=(*RGB, Colour.alpha))
    plain = write_raster(tmp_path / "b.tif", values[:3])
    flyer = segmenter(metres=metres)
    label(path, tmp_path / OUT, flyer, ignore_alpha=True)
    label(plain, tmp_path / "plain.tif", flyer)
    np.testing.assert_array_equal(labels_in(tmp_path / OUT), labels_in(tmp_path / "plain.tif"))


def test_transparent_colours_do_not_run_into_the_ground_beside_them(tmp_path: Path) -> None:
    values = np.full((5, 96, 108), 200, np.uint8)
    values[4] = third()
    hidden = values.copy()
    hidden[:3, third() == 0] = 3  # another colour where it is transparent
    results = []
    for name, array in (("a.tif", values), ("b.tif", hidden)):
        path = write_raster(tmp_path / name, array, colours=RGBN_ALPHA)
        label(path, tmp_path / OUT, segmenter(metres=0.8))
        results.append(labels_in(tmp_path / OUT))
    np.testing.assert_array_equal(*results)


def test_an_alpha_band_that_the_model_is_shown_is_a_colour(tmp_path: Path) -> None:
    values = np.concatenate([bands(3), third()[None]])
    path = write_raster(tmp_path / "a.tif", values, colours=(*RGB, Colour.alpha))
    raster = describe(path, segmenter(), bands=(4, 1, 2))
    assert "band 4, which the file calls alpha, is taken for a colour" in raster.notes
    assert not removed(path, bands=(4, 1, 2)).any()


# ---- nodata


@pytest.mark.parametrize("metres", [None, 0.2])
@pytest.mark.faults
def test_a_pixel_is_nodata_where_all_that_the_model_sees_is(
    tmp_path: Path, metres: float | None
) -> None:
    values = bands(4)
    values[:3, :24, :36] = 0
    values[0, 48:, 60:] = 0  # one band alone: that is ground
    colours = (*RGB, Colour.undefined)
    path = write_raster(tmp_path / "a.tif", values, colours=colours, nodata=0)
    expected = (values[:3] == 0).all(axis=0)
    np.testing.assert_array_equal(removed(path, metres), expected)
    assert said(path) == (f"nodata 0 removes {100 * expected.mean():.0f} % of the area",)


@pytest.mark.parametrize("nodata", [math.nan, -9999.0, -3.4028234663852886e38, math.inf])
@pytest.mark.faults
def test_nodata_of_floating_point_may_be_no_number(tmp_path: Path, nodata: float) -> None:
    values = bands(3).astype(np.float32)
    values[:, 30:50, 40:70] = nodata
    values[1, 70, 80] = np.nan  # one value is enough: the model cannot see that pixel
    path = write_raster(tmp_path / "a.tif", values, nodata=nodata)
    expected = np.zeros(values.shape[1:], bool)
    expected[30:50, 40:70] = expected[70, 80] = True
    np.testing.assert_array_equal(removed(path, scale=(0, 255)), expected)


@pytest.mark.parametrize("text", ["-9999", "256", "nan", "0.5"])
@pytest.mark.faults
def test_nodata_that_the_values_cannot_have_means_nothing_and_is_said(
    tmp_path: Path, text: str
) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, kind, value in (
        (33550, 12, (0.5, 0.5, 0.0)),
        (33922, 12, (0.0, 0.0, 0.0, 346000.0, 5648000.0, 0.0)),
        (42113, 2, text),
    ):
        tags.tagtype[tag] = kind
        tags[tag] = value
    values = bands(3)
    values[:, :40] = 0  # to which GDAL rounds 0.5
    Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0))).save(
        tmp_path / "a.tif", tiffinfo=tags
    )
    notes = describe(tmp_path / "a.tif", segmenter()).notes
    assert f"nodata {text} is no value of uint8: it takes no pixel away" in notes
    assert not removed(tmp_path / "a.tif").any()


def test_nodata_differs_from_band_to_band_of_a_vrt(tmp_path: Path) -> None:
    values = bands(3)
    values[:, :30] = np.array([7, 8, 9])[:, None, None]
    values[:, 30:60] = 7  # nodata of red alone
    write_raster(tmp_path / "a.tif", values)
    parts = "".join(
        f'<VRTRasterBand dataType="Byte" band="{b}"><NoDataValue>{b + 6}</NoDataValue>'
        f"<ColorInterp>{colour}</ColorInterp><SimpleSource>"
        f'<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>{b}</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for b, colour in enumerate(("Red", "Green", "Blue"), start=1)
    )
    place = "<SRS>EPSG:25832</SRS><GeoTransform>346000,0.5,0,5648000,0,-0.5</GeoTransform>"
    size = 'rasterXSize="108" rasterYSize="96"'
    (tmp_path / "a.vrt").write_text(f"<VRTDataset {size}>{place}{parts}</VRTDataset>")
    gone = (values == np.array([7, 8, 9])[:, None, None]).all(axis=0)
    assert gone[:30].all()
    np.testing.assert_array_equal(removed(tmp_path / "a.vrt"), gone)


# ---- masks, palettes, and all of them


@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize("metres", [None, 0.2])
@pytest.mark.faults
def test_a_mask_in_the_file_or_beside_it_decides_with_alpha_and_nodata(
    tmp_path: Path, internal: bool, metres: float | None
) -> None:
    values = bands(5)
    values[4] = third()
    values[:3, :24, 60:] = 0
    mask = np.full((96, 108), 255, np.uint8)
    mask[60:, 48:72] = 0
    path = write_raster(tmp_path / "a.tif", values, colours=RGBN_ALPHA, nodata=0)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal),
        rasterio.open(path, "r+") as dataset,
    ):
        dataset.write_mask(mask)
    assert (tmp_path / "a.tif.msk").exists() != internal
    expected = (third() == 0) | (mask == 0) | (values[:3] == 0).all(axis=0)
    np.testing.assert_array_equal(removed(path, metres), expected)
    (line,) = said(path)
    assert "alpha band 5 removes 33 %" in line
    assert f"the mask removes {100 * (mask == 0).mean():.0f} %" in line
    assert "--ignore-alpha keeps what the alpha band removes" in line


def test_colours_of_a_palette_are_read_and_its_transparent_ones_are_not(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 255, (256, 4), dtype=np.uint8)
    colours[:, 3] = 255
    colours[9, 3] = 0
    index = np.random.default_rng(2).integers(0, 256, (1, 96, 108), dtype=np.uint8)
    index[0, :20] = 9
    path = tmp_path / "a.vrt"
    write_raster(tmp_path / "i.tif", index, colours=None)
    entries = "".join('<Entry c1="{}" c2="{}" c3="{}" c4="{}"/>'.format(*c) for c in colours)
    path.write_text(
        '<VRTDataset rasterXSize="108" rasterYSize="96"><SRS>EPSG:25832</SRS>'
        "<GeoTransform>346000,0.5,0,5648000,0,-0.5</GeoTransform>"
        '<VRTRasterBand dataType="Byte" band="1"><ColorInterp>Palette</ColorInterp>'
        f"<ColorTable>{entries}</ColorTable><SimpleSource>"
        '<SourceFilename relativeToVRT="1">i.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    raster = describe(path, segmenter())
    found, valid = read_window(raster)
    np.testing.assert_array_equal(found, colours[index[0], :3])
    np.testing.assert_array_equal(valid, index[0] != 9)


def test_a_window_is_the_same_part_of_the_whole(tmp_path: Path) -> None:
    values = bands(5)
    values[4] = third()
    raster = describe(
        write_raster(tmp_path / "a.tif", values, colours=RGBN_ALPHA), segmenter(metres=0.2)
    )
    pixels, valid = read_window(raster, ((10, 40), (20, 90)))
    np.testing.assert_array_equal(pixels, values[:3, 10:40, 20:90].transpose(1, 2, 0))
    np.testing.assert_array_equal(valid, third()[10:40, 20:90] != 0)


def test_of_a_large_raster_what_is_removed_is_said_as_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.full((4, 2000, 60), 200, np.uint8)
    values[3] = third(2000, 60)
    path = write_raster(tmp_path / "a.tif", values, colours=(*RGB, Colour.alpha))
    monkeypatch.setattr(raster_pixels, "_EXACT", 2 * 256 * 60)
    assert said(path) == ("alpha band 4 removes about 33 % of the area; --ignore-alpha keeps it",)


# ---- options that do nothing


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        (Reading(ignore_alpha=True), r"a\.tif: --ignore-alpha does nothing: has no alpha band"),
        (Reading(scale=(0, 100)), r"a\.tif: --scale does nothing: its values are 8 bits"),
    ],
)
@pytest.mark.faults
def test_an_option_that_changes_no_raster_is_refused(
    tmp_path: Path, reading: Reading, message: str
) -> None:
    plain = write_raster(tmp_path / "a.tif", bands(3))
    alpha = write_raster(tmp_path / "b.tif", bands(4), colours=(*RGB, Colour.alpha))
    deep = write_raster(tmp_path / "c.tif", bands(3).astype(np.uint16))
    bad = tmp_path / "d.tif"
    bad.write_bytes(plain.read_bytes()[:100])
    with pytest.raises(BadInput, match=message + ".*leave --"):
        refuse_idle_options([bad, plain], reading)
    refuse_idle_options([plain, alpha if reading.ignore_alpha else deep], reading)  # one is enough
    refuse_idle_options([bad], reading)  # whoever reads it says why
    refuse_idle_options([plain], Reading(bands=(1, 2, 3), keep_scale=True, allow_remote=True))


# ---- kinds of values


@pytest.mark.parametrize(
    "dtype", ["int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64"]
)
@pytest.mark.faults
def test_the_scale_that_is_asked_for_makes_values_of_any_kind_labels(
    tmp_path: Path, dtype: str
) -> None:
    levels = noise(70, 100)
    wide = np.dtype(dtype).itemsize >= 4 and dtype != "float32"
    # Beyond 24 bits, where float32 has no neighbouring whole numbers.
    low, step = (-127, 1) if dtype == "int8" else (2**30 if wide else 100, 1 if wide else 10)
    values = (levels.astype(np.float64) * step + low).clip(None, 127 if dtype == "int8" else None)
    path = write_raster(tmp_path / "a.tif", values.astype(dtype))
    with pytest.raises(BadInput, match=f"values are {dtype}.*--scale LOW,HIGH"):
        describe(path, segmenter())
    raster = describe(path, segmenter(), scale=(low, low + 255 * step))
    shown = levels.clip(None, 254) if dtype == "int8" else levels
    np.testing.assert_array_equal(read_window(raster)[0], shown.transpose(1, 2, 0))


def test_complex_values_are_refused_in_words(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", bands(3).astype(np.complex64))
    with pytest.raises(BadInput, match=r"values are complex64.*magnitude"):
        describe(path, segmenter(), scale=(0, 255))


@pytest.mark.faults
def test_a_raster_of_absurd_width_is_refused_from_its_header(tmp_path: Path) -> None:
    path, wide = tmp_path / "wide.tif", 4_194_305
    options = {"driver": "GTiff", "dtype": "uint8", "count": 3, "sparse_ok": True}
    options |= {"transform": rasterio.Affine(0.5, 0, 0, 0, -0.5, 0)}
    with rasterio.open(path, "w", width=wide, height=1, crs="EPSG:32632", **options):
        pass
    with pytest.raises(BadInput, match=f"is {wide} pixels wide, and at most 4194304 are taken"):
        describe(path, segmenter())
