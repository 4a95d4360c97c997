"""The pool of calibration tiles: what is cut, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.calibration import tiles as module
from segclip_deploy.calibration.tiles import MIN_TILES, cut_tiles, find_tiles, stream_tiles
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.dataset_index import read_index
from segclip_deploy.runtime.inference.frame import prepare, read_frame
from segclip_deploy.runtime.inference.tile_descriptors import DESCRIPTORS, correlation, describe
from segclip_deploy.runtime.io import pictures
from segclip_deploy.runtime.io.pictures import read_picture
from tests.conftest import EXAMPLE, SHARED
from tests.runtime.formats.test_geotiff import METRE, PROJECTED, write_geotiff
from tests.support.fakes import random_frame
from tests.support.trees import loveda, pairs, uavid

SPEC = InputSpec(height=32, width=48)
IN_METRES = {1024: PROJECTED, 3076: METRE}


def picture(seed: int, height: int = 32, width: int = 48) -> Image.Image:
    """A smooth random picture, as unlike noise as the ground is."""
    small = random_frame(4, 6, seed).pixels
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def write_pictures(folder: Path, count: int = MIN_TILES, *, first: int = 0) -> Path:
    """A folder of one-tile pictures 00.png, 01.png, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        picture(seed).save(folder / f"{seed:02}.png")
    return folder


def write_dataset(root: Path, **splits: list[int]) -> Path:
    """A dataset whose images are pictures of these seeds, 00.png and on."""
    for seeds in splits.values():
        for seed in seeds:
            write_pictures(root / "images", 1, first=seed)
    names = {split: [f"{seed:02}" for seed in seeds] for split, seeds in splits.items()}
    (root / "split.json").write_text(json.dumps(names))
    return root


def test_real_images_are_cut_on_a_grid_without_overlap() -> None:
    pool = find_tiles([EXAMPLE / "images"], InputSpec(160, 128))
    expected = []
    for path in sorted((EXAMPLE / "images").iterdir()):
        pixels = read_frame(path).pixels
        for top in range(0, pixels.shape[0] - 159, 160):
            for left in range(0, pixels.shape[1] - 127, 128):
                expected.append((path, top, left, pixels[top : top + 160, left : left + 128]))
    found = list(stream_tiles(pool.tiles, pool.height, pool.width))
    assert len(found) == len(expected) > 100
    for (tile, pixels), (path, top, left, cut) in zip(found, expected, strict=True):
        assert (tile.source, tile.top, tile.left) == (path, top, left)
        np.testing.assert_array_equal(pixels, cut)
    assert len({tile.sha256 for tile in pool.tiles}) == len(pool.tiles)
    assert pool.descriptors.shape == (len(pool.tiles), len(DESCRIPTORS))
    assert (pool.images, pool.constant, pool.repeated) == (4, 0, 0)


def test_an_image_smaller_than_a_tile_is_reflected_as_in_flight(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    picture(99, 20, 30).save(tmp_path / "99.png")
    pool = find_tiles([tmp_path], SPEC)
    [(tile, pixels)] = stream_tiles(pool.tiles[-1:], 32, 48)
    np.testing.assert_array_equal(pixels, prepare(read_frame(tmp_path / "99.png"), 32, 48))
    assert tile.source.name == "99.png"


def test_a_folder_its_files_a_list_of_them_and_a_dataset_are_the_same_pool(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", train=[*range(MIN_TILES)], val=[50, 51])
    files = [root / "images" / f"{seed:02}.png" for seed in range(MIN_TILES)]
    listed = tmp_path / "list.txt"
    lines = "\n".join(f"set/images/{path.name}" for path in files)
    listed.write_text(f"# the training images\n\n{lines}\n")
    pools = [find_tiles(sources, SPEC, exclude=root) for sources in ([root], files, [listed])]
    for pool in pools:
        assert [tile.source.name for tile in pool.tiles] == [path.name for path in files]
        np.testing.assert_array_equal(pool.descriptors, pools[0].descriptors)


def test_tiles_of_one_colour_and_repeated_ones_are_left_out_and_counted(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    sea = np.full((32, 48, 3), (10, 30, 90), dtype=np.uint8)
    sea[::7, ::7] += 1
    Image.fromarray(sea).save(tmp_path / "sea.png")
    picture(3).save(tmp_path / "three_again.bmp")
    pool = find_tiles([tmp_path], SPEC)
    assert (len(pool.tiles), pool.constant, pool.repeated) == (MIN_TILES, 1, 1)
    assert not {"sea.png", "three_again.bmp"} & {tile.source.name for tile in pool.tiles}


def test_sensor_noise_on_calm_water_is_no_noise_image(tmp_path: Path) -> None:
    grain = np.random.default_rng(0).normal((10, 30, 60), 3, (32, 48, 3))
    Image.fromarray(grain.astype(np.uint8)).save(write_pictures(tmp_path) / "water.png")
    assert len(find_tiles([tmp_path], SPEC).tiles) == MIN_TILES + 1


def test_progress_counts_every_image_once(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, train=[*range(MIN_TILES)], plan=[50], val=[51])
    calls: list[tuple[int, int]] = []
    find_tiles([root], SPEC, exclude=root, report=lambda *call: calls.append(call))
    assert calls == [(done, MIN_TILES + 2) for done in range(1, MIN_TILES + 3)]


def truncated(path: Path) -> None:
    picture(0).save(path)
    path.write_bytes(path.read_bytes()[:-200])


def converted(mode: str) -> Callable[[Path], None]:
    return lambda path: picture(0).convert(mode).save(path)


def noise(path: Path) -> None:
    Image.fromarray(random_frame(64, 96).pixels).save(path, "JPEG", quality=20)


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("truncated.png", truncated, "damaged"),
        ("empty.png", Path.touch, "empty"),
        ("text.jpg", lambda path: path.write_text("text"), "not an image"),
        ("alpha.png", converted("RGBA"), "RGBA"),
        ("grey.png", converted("L"), "greyscale"),
        ("deep.tif", converted("I;16"), "16-bit"),
        ("noise.jpg", noise, "noise, not a picture"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.faults
def test_one_bad_image_among_good_ones_is_refused_by_name(
    tmp_path: Path, name: str, write: Callable[[Path], None], says: str
) -> None:
    write_pictures(tmp_path)
    write(tmp_path / name)
    with pytest.raises(BadInput, match=says) as caught:
        find_tiles([tmp_path], SPEC)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_sources_that_hold_nothing_to_read_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "blank.txt").write_text("# nothing\n")
    (tmp_path / "broken.txt").write_text("gone.png\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    write_dataset(tmp_path / "set", val=[1])
    for name, says in (
        ("folder", "no images in this folder"),
        ("missing", "no such file"),
        ("missing.txt", "cannot be read"),
        ("blank.txt", "lists no image"),
        ("broken.txt", "gone.png, which is no file"),
        ("binary.txt", "cannot be read"),
        ("set", "no split 'train'"),
    ):
        with pytest.raises(BadInput, match=says) as caught:
            find_tiles([tmp_path / name], SPEC)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_too_few_tiles_are_refused_with_what_became_of_them(tmp_path: Path) -> None:
    write_pictures(tmp_path, MIN_TILES - 1)
    Image.new("RGB", (48, 32), "green").save(tmp_path / "green.png")
    with pytest.raises(
        BadInput, match=r"15 usable .* 16 images \(1 of one colour, .* 0 repeated\)"
    ):
        find_tiles([tmp_path], SPEC)
    with pytest.raises(BadInput, match="0 usable tiles"):
        find_tiles([tmp_path / "green.png"], SPEC)


def judged(tmp_path: Path, leak: Image.Image, name: str) -> None:
    """Calibrate on good pictures and one more; val holds pictures 50 and 51, the latter of four tiles."""
    root = write_dataset(tmp_path / "set", train=[0, 1], plan=[50], val=[51], val_far=[52])
    picture(51, 64, 96).save(root / "images" / "51.png")
    pool = write_pictures(tmp_path / "pool")
    leak.save(pool / name)
    find_tiles([pool], SPEC, exclude=root)


@pytest.mark.parametrize(
    ("leak", "name", "judge"),
    [
        (picture(50), "renamed.tif", "50.png"),
        (picture(51, 64, 96), "other.bmp", "51.png"),
        (picture(51, 64, 96).crop((48, 32, 96, 64)), "one_tile.png", "51.png"),
        (picture(52), "far.png", "52.png"),
    ],
    ids=["plan", "val", "a tile of val", "another split"],
)
def test_an_image_that_will_judge_the_result_is_refused_whatever_its_name(
    tmp_path: Path, leak: Image.Image, name: str, judge: str
) -> None:
    with pytest.raises(BadInput) as caught:
        judged(tmp_path, leak, name)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "pool" / name))
    assert str(tmp_path / "set" / "images" / judge) in message
    assert "leave this image out" in message


def test_fill_and_other_parts_of_a_judging_image_are_no_leak(tmp_path: Path) -> None:
    judged(tmp_path, picture(51, 64, 96).crop((40, 32, 88, 64)), "shifted.png")
    root = tmp_path / "set"
    Image.new("RGB", (48, 32)).save(root / "images" / "50.png")
    Image.new("RGB", (48, 32)).save(tmp_path / "pool" / "black.png")
    assert find_tiles([tmp_path / "pool"], SPEC, exclude=root).constant == 1


def test_without_a_split_every_image_of_the_dataset_judges(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "images").parent
    with pytest.raises(BadInput, match="split 'all'"):
        find_tiles([root / "images"], SPEC, exclude=root)


@pytest.mark.parametrize("coarse", [0.44, 0.46], ids=["one scale", "two scales"])
def test_ground_sample_distances_far_apart_are_refused_with_the_figures(
    tmp_path: Path, coarse: float
) -> None:
    write_pictures(tmp_path)
    for name, step in (("fine.tif", 0.3), ("coarse.tif", coarse)):
        write_geotiff(tmp_path / name, step, IN_METRES, image=picture(len(name)))
    if coarse < 0.45:
        find_tiles([tmp_path], SPEC)
        return
    with pytest.raises(BadInput, match=r"0\.46 m per pixel, and .*fine\.tif has 0\.3") as caught:
        find_tiles([tmp_path], SPEC)
    assert str(caught.value).startswith(str(tmp_path / "coarse.tif"))


def test_each_image_is_decoded_once_for_all_its_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(4):
        picture(seed, 64, 96).save(tmp_path / f"{seed}.png")
    decoded = []
    monkeypatch.setattr(
        pictures,
        "read_picture",
        lambda path, *args: [decoded.append(path.name), read_picture(path, *args)][1],
    )
    pool = find_tiles([tmp_path], SPEC)
    list(stream_tiles(pool.tiles, 32, 48))
    assert decoded == 2 * ["0.png", "1.png", "2.png", "3.png"]


@pytest.mark.parametrize("size", [(32, 48), (16, 48)], ids=["other pixels", "smaller"])
@pytest.mark.faults
def test_an_image_that_changed_since_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    pool = find_tiles([write_pictures(tmp_path)], SPEC)
    picture(77, *size).save(tmp_path / "05.png")
    with pytest.raises(BadInput, match=r"05\.png: .* has changed .*calibrate again"):
        list(stream_tiles(pool.tiles, 32, 48))


def test_correlation_is_that_of_neighbouring_pixels() -> None:
    def of(pixels: NDArray[np.uint8]) -> float:
        top, bottom = (np.ascontiguousarray(half) for half in np.split(pixels, 2))
        return correlation([describe(top), describe(bottom)])

    grey = np.asarray(picture(0, 512, 512).convert("L"))
    direct = max(
        np.corrcoef(a.ravel(), b.ravel())[0, 1]
        for a, b in ((grey[1:], grey[:-1]), (grey[:, 1:], grey[:, :-1]))
    )
    assert of(np.stack([grey] * 3, axis=-1)) == pytest.approx(direct, abs=1e-3)
    assert of(random_frame(512, 512).pixels) == pytest.approx(0, abs=0.01)
    assert of(np.full((16, 16, 3), 7, dtype=np.uint8)) == 1


@pytest.mark.shared
def test_no_real_image_comes_near_noise() -> None:
    spec = InputSpec(512, 512)
    least = {}
    for folder in ("dubai/images", "uavid_gif_lossy/images", "uav_frames_brighton/images_1600x900"):
        for path in sorted((SHARED / folder).iterdir()):
            least[path] = correlation([describe(pixels) for _, pixels in cut_tiles(path, spec)])
    assert len(least) == 86
    assert min(least.values()) > 0.75 > 2 * module._NOISE


@pytest.mark.shared
def test_real_geotiffs_are_read_or_refused_with_what_was_found() -> None:
    folder = SHARED / "geotiff_real"
    pool = find_tiles(
        [folder / "oem_koeln_50.tif", folder / "rasterio_cogeo_0p6m.tif"], InputSpec(256, 256)
    )
    assert len(pool.tiles) == 9 + 16
    # Counted with rasterio's dataset_mask: of four tiles one has no transparent pixel.
    assert (
        len(list(cut_tiles(folder / "riotiler_pix4d_alpha_nodata.tif", InputSpec(256, 256)))) == 1
    )
    with pytest.raises(BadInput, match=re.escape("5 m per pixel, and")):
        find_tiles([folder], InputSpec(256, 256))


def test_a_layout_decides_between_two_and_leaves_other_datasets_alone(tmp_path: Path) -> None:
    both = loveda(tmp_path / "both", list(pairs("loveda", 60)))
    (both / "images").mkdir()
    other = uavid(tmp_path / "other", list(pairs("uavid", 3)))
    with pytest.raises(BadInput, match="say which: --layout"):
        find_tiles([both], InputSpec(64, 64))
    pool = find_tiles([both], InputSpec(64, 64), exclude=other, layout="loveda")
    index = read_index(both, layout="loveda")
    training = {index.image(name, both) for name in index.splits["train"]}
    assert {tile.source for tile in pool.tiles} == training
