"""The one reader: channels, depth and transparency mean the same of images and of rasters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import ColorInterp

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, load_vocabulary
from segclip_deploy.calibration.tiles import cut_tiles, find_tiles, stream_tiles
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.dataset import open_dataset
from segclip_deploy.runtime.inference.windows import Window
from segclip_deploy.runtime.io.pictures import open_windows, read_picture
from segclip_deploy.runtime.io.raster.rows import RowReader
from segclip_deploy.runtime.io.raster.source import Reading, describe_raster
from tests.conftest import EXAMPLE
from tests.support.helpers import call
from tests.support.pngs import GREY, GREY_ALPHA, PALETTE, RGB, RGBA, png
from tests.support.rasters import write_raster

pytestmark = pytest.mark.faults

SPEC = InputSpec(64, 96)
NEAR = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined)
ALPHA = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)


def samples(channels: int, high: int, seed: int = 0) -> NDArray[np.int64]:
    """(7, 5, C) integers from 0 to ``high``, both among them."""
    values = np.random.default_rng(seed).integers(0, high + 1, (7, 5, channels))
    values[0, 0], values[0, 1] = 0, high
    return values


@pytest.mark.parametrize(
    ("depth", "colour", "channels", "bands"),
    [(8, GREY, 1, (1, 1, 1)), (4, GREY, 1, (1, 1, 1)), (1, GREY, 1, (1, 1, 1)),
     (8, RGB, 3, (3, 2, 1)), (8, RGBA, 4, (1, 2, 3)), (8, GREY_ALPHA, 2, (1, 1, 1))],
)  # fmt: skip
def test_bands_choose_the_channels_of_an_image(
    tmp_path: Path, depth: int, colour: int, channels: int, bands: tuple[int, int, int]
) -> None:
    path, values = tmp_path / "a.png", samples(channels, 2**depth - 1)
    path.write_bytes(png(values, depth, colour))
    frame = read_picture(path, Reading(bands))
    levels = values * 255 // (2**depth - 1)
    np.testing.assert_array_equal(frame.pixels, levels[..., [band - 1 for band in bands]])
    opaque = np.ones((7, 5), bool) if channels in (1, 3) else values[..., -1] != 0
    np.testing.assert_array_equal(opaque if frame.valid is None else frame.valid, opaque)
    if colour != RGB:
        with pytest.raises(BadInput, match=f"--bands {','.join(map(str, bands))}"):
            read_picture(path)


@pytest.mark.parametrize("high", [1000, 4095, 65535])
@pytest.mark.parametrize(
    ("colour", "channels", "bands"),
    [(GREY, 1, (1, 1, 1)), (RGB, 3, None), (RGBA, 4, (1, 2, 3)), (GREY_ALPHA, 2, (1, 1, 1))],
)
def test_deep_images_are_scaled_linearly_and_never_by_chance(
    tmp_path: Path, high: int, colour: int, channels: int, bands: tuple[int, int, int] | None
) -> None:
    path, values = tmp_path / "a.png", samples(channels, high)
    path.write_bytes(png(values, 16, colour))
    expected = np.rint(values[..., [b - 1 for b in bands or (1, 2, 3)]] * 255 / high)
    frame = read_picture(path, Reading(bands, (0, high)))
    assert (
        np.abs(frame.pixels.astype(int) - expected).max() <= 1
    )  # float32 at the middle of a level
    with pytest.raises(BadInput) as caught:
        read_picture(path)
    proposed = {1000: "1023", 4095: "4095", 65535: "65535"}[high]
    assert f"--scale 0,{proposed}" in str(caught.value.fix)
    with pytest.raises(BadInput, match="--scale"):
        read_picture(path, Reading(bands or (1, 2, 3)))


def test_floats_are_scaled_and_what_is_no_number_is_not_valid(tmp_path: Path) -> None:
    values = np.linspace(-1, 3, 35, dtype=np.float32).reshape(7, 5)
    values[2, 2] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    frame = read_picture(tmp_path / "a.tif", Reading((1, 1, 1), (0, 2)))
    assert frame.valid is not None
    assert np.argwhere(~frame.valid).tolist() == [[2, 2]]
    expected = np.rint(np.clip(np.nan_to_num(values) / 2, 0, 1) * 255)
    assert np.abs(frame.pixels[..., 1] - expected).max() <= 1


def test_a_palette_is_its_colours(tmp_path: Path) -> None:
    path, values = tmp_path / "a.png", samples(1, 15)
    path.write_bytes(png(values[..., 0], 4, PALETTE))
    with Image.open(path) as image:
        colours = np.reshape(image.getpalette(), (-1, 3))
    frame = read_picture(path, Reading((1, 2, 3)))
    np.testing.assert_array_equal(frame.pixels, colours[values[..., 0]])


def test_channels_that_are_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(samples(3, 255), 8, RGB))
    with pytest.raises(BadInput, match=r"has 3 channels \(R, G, B\), not 4; change --bands"):
        read_picture(tmp_path / "a.png", Reading((1, 2, 4)))


# ---- rasters


def ground() -> NDArray[np.uint8]:
    """(3, 448, 672) of a real image: seven by seven tiles."""
    with Image.open(EXAMPLE / "images" / "tile8_part3.jpg") as image:
        pixels = np.asarray(image.convert("RGB"))[:448, :672]
    return pixels.transpose(2, 0, 1)


def with_hole(kind: str, path: Path) -> tuple[Path, Reading]:
    """That ground with a hole of 10 × 10 pixels that touches four tiles, told in one of the usual ways."""
    bands, hole = ground().astype(np.uint8), np.zeros((448, 672), bool)
    hole[59:69, 91:101] = True
    if kind == "alpha":
        return write_raster(path, np.concatenate([bands, 255 * ~hole[None]]).astype(np.uint8),
                            colours=ALPHA), Reading()  # fmt: skip
    if kind == "mask":
        return write_raster(path, bands, mask=(255 * ~hole).astype(np.uint8)), Reading()
    if kind == "nodata, 16 bits":
        deep = 1 + bands.astype(np.uint16) * 10
        deep[:, hole] = 0
        return write_raster(path, deep, nodata=0), Reading(scale=(1, 2551))
    deep = bands.astype(np.float32)
    deep[:, hole] = np.nan
    return write_raster(path, deep), Reading(scale=(0, 255))


@pytest.mark.parametrize("kind", ["alpha", "mask", "nodata, 16 bits", "NaN"])
def test_tiles_with_ground_that_is_not_valid_are_left_out_and_counted(
    tmp_path: Path, kind: str
) -> None:
    path, reading = with_hole(kind, tmp_path / "a.tif")
    pool = find_tiles([path], SPEC, reading=reading)
    assert (len(pool.tiles), pool.invalid) == (45, 4)
    places = {(tile.top, tile.left) for tile in pool.tiles}
    assert places.isdisjoint({(0, 0), (0, 96), (64, 0), (64, 96)})
    whole = ground().transpose(1, 2, 0)
    for tile, pixels in stream_tiles(pool.tiles[::-1], 64, 96, pool.opener):  # from below, too
        own = whole[tile.top : tile.top + 64, tile.left : tile.left + 96]
        np.testing.assert_array_equal(pixels, own)


def test_near_infrared_is_left_to_the_bands(tmp_path: Path) -> None:
    bands = ground()
    path = write_raster(
        tmp_path / "a.tif",
        np.concatenate([bands, bands[:1] // 2]),
        colours=NEAR,
        photometric="RGB",
        ALPHA="NO",
    )
    [*tiles] = cut_tiles(path, SPEC, lambda *a: open_windows(*a, reading=Reading((4, 1, 2))))
    assert len(tiles) == 49
    np.testing.assert_array_equal(tiles[0][1][..., 0], bands[0, :64, :96] // 2)
    np.testing.assert_array_equal(tiles[0][1][..., 1:], bands[:2, :64, :96].transpose(1, 2, 0))


def test_calibration_sees_a_raster_as_flight_does(tmp_path: Path) -> None:
    """Resampled from 0.5 to 0.8 m, window by window."""
    path = write_raster(tmp_path / "a.tif", ground())
    raster = describe_raster(path, Reading(), 0.8)
    assert raster.grid.model == (280, 420)
    with (
        open_windows(path, 64, 96, model_metres=0.8) as read,
        RowReader(raster, (280, 420)) as rows,
    ):
        assert read.shape == (280, 420)
        for top in (0, 64, 128):
            for left in (0, 96, 192):
                pixels, whole = read(top, left)
                expected = rows(Window(top, left, 64, 96, (top, top + 64, left, left + 96)))
                np.testing.assert_array_equal(pixels, expected)
                assert whole


@pytest.mark.parametrize("kind", ["alpha", "mask", "NaN"])
def test_what_is_not_valid_counts_in_no_score_and_gets_no_label(
    tmp_path: Path, tiny_bundle: Path, kind: str
) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    path, reading = with_hole(kind, tmp_path / "images" / "a.tif")
    Image.new("L", (672, 448), 3).save(tmp_path / "masks" / "a.png")
    dataset = open_dataset(tmp_path, load_vocabulary("dubai"), reading=reading)
    [sample] = dataset.samples("all")
    assert (sample.ground_truth == IGNORE_INDEX).sum() == 100
    options = ["--scale", "0,255"] if kind == "NaN" else []
    scored = call("evaluate", tiny_bundle, tmp_path, "--json", *options)
    assert scored.exit_code == 0, scored.stderr
    assert json.loads(scored.stdout)["pixels"] == 448 * 672 - 100
    assert path.exists()


def test_transparent_pixels_of_an_image_get_no_label_in_flight(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    pixels = np.full((70, 100, 4), 200, np.uint8)
    pixels[:, 50:, 3] = 0
    (tmp_path / "a.png").write_bytes(png(pixels, 8, RGBA))
    out = tmp_path / "out"
    done = call("run", tiny_bundle, tmp_path / "a.png", "-o", out, "--bands", "1,2,3")
    assert done.exit_code == 0, done.stderr
    labels = np.asarray(Image.open(out / "a.png"))
    assert (labels[:, 50:] == IGNORE_INDEX).all()
    assert (labels[:, :50] < 5).all()


@pytest.mark.parametrize(
    ("kind", "options"), [("alpha", []), ("nodata, 16 bits", ["--scale", "1,2551"])]
)
def test_what_run_takes_calibrate_takes(
    tmp_path: Path, tiny_bundle: Path, kind: str, options: list[Any]
) -> None:
    path, _ = with_hole(kind, tmp_path / "a.tif")
    flown = call("run", tiny_bundle, path, "-o", tmp_path / "out", *options)
    assert flown.exit_code == 0, flown.stderr
    done = call("calibrate", tiny_bundle, "--tiles", path, "-o", tmp_path / "t.json", *options)
    assert done.exit_code == 0, done.stderr
    assert "4 tiles left out" in done.stderr
    assert json.loads((tmp_path / "t.json").read_text())["coverage"]["invalid"] == 4


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.webp"])
def test_pictures_of_several_pages_are_refused_where_one_is_taken(
    tmp_path: Path, tiny_bundle: Path, name: str
) -> None:
    """``run`` labels every page; a dataset, or tiles to calibrate on, would lose all but the first."""
    pages = [Image.new("RGB", (96, 64), (90 * n, 9, 9)) for n in range(3)]
    for folder, page in (("images", pages), ("masks", [one.convert("L") for one in pages])):
        (tmp_path / folder).mkdir()
        page[0].save(tmp_path / folder / name, save_all=True, append_images=page[1:])
    tiles = call("calibrate", tiny_bundle, "--tiles", tmp_path / "images", "-o", tmp_path / "t")
    data = call("evaluate", tiny_bundle, tmp_path)
    Image.new("RGB", (96, 64)).save(tmp_path / "images" / name)
    masks = call("evaluate", tiny_bundle, tmp_path)
    for refused, folder in ((tiles, "images"), (data, "images"), (masks, "masks")):
        assert refused.exit_code == 1
        assert f"{folder}/{name}: has 3 pages, and one is taken here" in refused.stderr


@pytest.mark.parametrize("bands", [1, 3])
def test_a_file_of_several_rasters_is_refused_with_a_command_that_takes_one_out(
    tmp_path: Path, tiny_bundle: Path, bands: int
) -> None:
    values = np.random.default_rng(0).integers(1, 256, (bands, 80, 100)).astype(np.uint8)
    path = write_raster(tmp_path / "it's two.tif", values, colours=None)
    with rasterio.open(path) as first:
        profile = first.profile
    with rasterio.open(path, "w", **profile, APPEND_SUBDATASET="YES") as second:
        second.write(255 - values)
    arguments = ["--bands", "1,1,1"]
    for command in (["run", tiny_bundle, path, "-o", tmp_path / "out"],
                    ["calibrate", tiny_bundle, "--tiles", path, "-o", tmp_path / "t"]):  # fmt: skip
        refused = call(*command, *arguments)
        assert refused.exit_code == 1
        assert f"{path}: holds 2 rasters, and one is taken" in refused.stderr
    remedy = refused.stderr.strip().partition("begins with ")[2]
    programs = Path(sys.executable).parent
    subprocess.run(f"PATH={programs}:$PATH; {remedy}", shell=True, check=True)
    made = tmp_path / "it's two_1.tif"
    np.testing.assert_array_equal(read_picture(made, Reading((1, 1, 1))).pixels[..., 0], values[0])


@pytest.mark.parametrize("command", ["run", "evaluate", "calibrate"])
@pytest.mark.parametrize(
    ("option", "applies"), [(["--scale", "0,4095"], (16, RGB)), (["--ignore-alpha"], (8, RGBA))]
)
def test_an_option_that_changes_no_image_is_refused(
    tmp_path: Path, tiny_bundle: Path, command: str, option: list[str], applies: tuple[int, int]
) -> None:
    """One image that it applies to is enough, whatever else is there."""
    images = tmp_path / "images"
    for folder in (images, tmp_path / "masks"):
        folder.mkdir()
    with Image.open(EXAMPLE / "images" / "tile8_part3.jpg") as image:
        image.crop((0, 0, 384, 384)).save(images / "a.png")
    Image.new("L", (384, 384), 1).save(tmp_path / "masks" / "a.png")
    arguments: list[Any] = {
        "run": ["run", tiny_bundle, images, "-o", tmp_path / "out"],
        "evaluate": ["evaluate", tiny_bundle, tmp_path],
        "calibrate": ["calibrate", tiny_bundle, "--tiles", images, "-o", tmp_path / "t.json"],
    }[command]
    refused = call(*arguments, *option)
    assert refused.exit_code == 1
    assert f"a.png: {option[0]} does nothing: " in refused.stderr
    assert not (tmp_path / "out").exists()
    assert call(*arguments).exit_code == 0
    depth, colour = applies
    channels = 4 if colour == RGBA else 3
    values = np.random.default_rng(0).integers(0, 2 ** min(depth, 12), (384, 384, channels))
    smooth = np.sort(values, axis=0)  # as noise, it would be refused
    (images / "b.png").write_bytes(png(smooth, depth, colour))
    Image.new("L", (384, 384), 1).save(tmp_path / "masks" / "b.png")
    assert call(*arguments, *option, "--bands", "1,2,3").exit_code == 0


def test_alpha_of_a_deep_raster_counts_for_its_option_beside_images(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    (tmp_path / "in").mkdir()
    values = np.random.default_rng(0).integers(0, 4096, (4, 96, 96)).astype(np.uint16)
    write_raster(tmp_path / "in" / "a.tif", values, colours=ALPHA)
    write_raster(tmp_path / "in" / "b.tif", values[:3].astype(np.uint8))
    Image.new("RGB", (96, 96)).save(tmp_path / "in" / "c.png")
    options = ["--ignore-alpha", "--scale", "0,4095"]
    done = call("run", tiny_bundle, tmp_path / "in", "-o", tmp_path / "out", *options)
    assert done.exit_code == 0, done.stderr
