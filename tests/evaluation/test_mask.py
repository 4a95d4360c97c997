"""Masks: the integers that were written, at every depth, and colours only where they are exact."""

from __future__ import annotations

import json
import shlex
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.dataset import open_dataset
from segclip_deploy.evaluation.mask import read_mask
from tests.support.helpers import call
from tests.support.pngs import GREY, GREY_ALPHA, PALETTE, RGB, RGBA, png

pytestmark = pytest.mark.faults

SHAPE = (13, 11)
"""Odd, so that rows of low depths end within a byte."""


def integers(depth: int) -> NDArray[np.uint8]:
    """Every value of a depth, in no order."""
    rng = np.random.default_rng(depth)
    return rng.permutation(np.arange(SHAPE[0] * SHAPE[1]) % 2 ** min(depth, 8)).reshape(SHAPE)


def by_gdal(path: Path) -> NDArray[Any]:
    """What an independent reader finds in the file."""
    rasterio = pytest.importorskip("rasterio")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has no place
        with rasterio.open(path) as dataset:
            return np.asarray(dataset.read(1))


def write_tiff(path: Path, values: NDArray[Any], **options: Any) -> None:
    rasterio = pytest.importorskip("rasterio")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape = {"height": values.shape[0], "width": values.shape[1], "count": 1}
        with rasterio.open(path, "w", "GTiff", dtype=values.dtype, **shape, **options) as dataset:
            dataset.write(values, 1)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_grey_png_gives_the_integers_it_stores(tmp_path: Path, depth: int) -> None:
    path, values = tmp_path / "a.png", integers(depth)
    path.write_bytes(png(values, depth, GREY))
    np.testing.assert_array_equal(by_gdal(path), values)
    np.testing.assert_array_equal(read_mask(path), values)
    assert read_mask(path).dtype == np.uint8


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_gives_its_indices(tmp_path: Path, depth: int) -> None:
    path, values = tmp_path / "a.png", integers(depth)
    path.write_bytes(png(values, depth, PALETTE))
    np.testing.assert_array_equal(by_gdal(path), values)
    np.testing.assert_array_equal(read_mask(path), values)


@pytest.mark.parametrize("photometric", ["MINISBLACK", "MINISWHITE"])
@pytest.mark.parametrize("compress", ["NONE", "DEFLATE", "LZW"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_tiff_gives_the_integers_it_stores(
    tmp_path: Path, depth: int, compress: str, photometric: str
) -> None:
    path, values = tmp_path / "a.tif", integers(depth).astype(np.uint8)
    write_tiff(path, values, NBITS=depth, compress=compress, photometric=photometric)
    np.testing.assert_array_equal(by_gdal(path), values)
    np.testing.assert_array_equal(read_mask(path), values)


@pytest.mark.parametrize("kind", ["uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("endianness", ["LITTLE", "BIG"])
def test_classes_in_wide_numbers_are_read(tmp_path: Path, kind: str, endianness: str) -> None:
    path, values = tmp_path / "a.tif", integers(8).astype(kind)
    write_tiff(path, values, ENDIANNESS=endianness)
    np.testing.assert_array_equal(read_mask(path), values)


@pytest.mark.parametrize("depth", [1, 8])
def test_a_bmp_gives_its_indices(tmp_path: Path, depth: int) -> None:
    path, values = tmp_path / "a.bmp", integers(depth).astype(np.uint8)
    path.write_bytes(bmp(values, depth))
    np.testing.assert_array_equal(by_gdal(path), values)
    np.testing.assert_array_equal(read_mask(path), values)


def bmp(values: NDArray[np.uint8], depth: int) -> bytes:
    """A BMP whose palette is grey, index i as colour (i, i, i): Pillow takes 8 bits of it for greyscale."""
    bits = np.unpackbits(values[..., None], axis=2)[..., 8 - depth :].reshape(len(values), -1)
    rows = [row.tobytes() for row in np.packbits(bits, axis=1)[::-1]]
    body = b"".join(row + bytes(-len(row) % 4) for row in rows)
    palette = b"".join(bytes((i, i, i, 0)) for i in range(2**depth))
    start = 14 + 40 + len(palette)
    height, width = values.shape
    return (
        b"BM"
        + struct.pack("<IHHI", start + len(body), 0, 0, start)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, 0, len(body), 0, 0, 2**depth, 0)
        + palette
        + body
    )


@pytest.mark.parametrize(
    ("kind", "bad", "told"),
    [
        ("uint16", 300, "1 of its values are no classes, which are integers from 0 to 255: 300;"),
        ("int16", -1, "from 0 to 255: -1;"),
        ("float32", 2.5, r"from 0 to 255: 2\.5;"),
        ("float32", np.nan, "from 0 to 255: nan;"),
    ],
)
def test_a_value_that_is_no_class_is_refused_by_value(
    tmp_path: Path, kind: str, bad: float, told: str
) -> None:
    values = np.zeros(SHAPE, kind)
    values[2, 3] = bad
    write_tiff(tmp_path / "a.tif", values)
    with pytest.raises(BadInput, match=told) as caught:
        read_mask(tmp_path / "a.tif")
    assert str(caught.value).startswith(f"{tmp_path / 'a.tif'}: ")


def test_more_wrong_values_than_three_are_counted(tmp_path: Path) -> None:
    values = np.zeros(SHAPE, np.uint16)
    values[0, :5] = [300, 301, 302, 303, 65535]
    (tmp_path / "a.png").write_bytes(png(values, 16))
    with pytest.raises(BadInput, match=r"5 of its values.*: 300, 301, 302, …"):
        read_mask(tmp_path / "a.png")


def colours_of(vocabulary: Vocabulary) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(class indices (H, W), and their colours (H, W, 3)), looked up one by one."""
    classes = integers(8) % len(vocabulary.classes)
    colours = [[vocabulary.classes[i].colour for i in row] for row in classes]
    return classes.astype(np.uint8), np.array(colours, np.uint8)


@pytest.mark.parametrize("alpha", [False, True])
def test_exact_colours_are_their_classes(
    tmp_path: Path, vocabulary: Vocabulary, alpha: bool
) -> None:
    classes, colours = colours_of(vocabulary)
    opaque = np.full((*SHAPE, 1), 255, np.uint8)
    samples = np.concatenate([colours, opaque], axis=2) if alpha else colours
    (tmp_path / "a.png").write_bytes(png(samples, 8, RGBA if alpha else RGB))
    read = read_mask(tmp_path / "a.png")
    np.testing.assert_array_equal(read, colours)
    np.testing.assert_array_equal(vocabulary.decode_mask(read), classes)


def test_unknown_colours_are_counted_and_the_most_frequent_named(vocabulary: Vocabulary) -> None:
    """Also where they lie one level beside a class's."""
    _, colours = colours_of(vocabulary)
    red, green, blue = vocabulary.classes[0].colour
    for count, colour in (
        (4, (1, 2, 3)),
        (3, (255, 255, 255)),
        (2, (red + 1, green, blue)),
        (1, (9, 9, 9)),
    ):
        colours[count, :count] = colour
    with pytest.raises(BadInput) as caught:
        vocabulary.decode_mask(colours, where="a.png")
    assert str(caught.value).startswith(
        "a.png: 4 colours in 10 pixels of this mask belong to no class of vocabulary 'dubai', most "
        "often #010203 (4 pixels), #ffffff (3 pixels), #3d1098 (2 pixels); "
    )


def test_values_written_into_three_channels_are_told_apart_from_colours(
    vocabulary: Vocabulary,
) -> None:
    grey = np.repeat(integers(2)[..., None].astype(np.uint8), 3, axis=2)
    with pytest.raises(BadInput, match="red, green and blue are equal: write one of them"):
        vocabulary.decode_mask(grey)


@pytest.mark.parametrize("colour", [RGBA, GREY_ALPHA])
def test_a_transparent_pixel_is_no_class(tmp_path: Path, colour: int) -> None:
    samples = np.full((*SHAPE, 4 if colour == RGBA else 2), 255, np.uint8)
    samples[..., 0] = 3
    (tmp_path / "a.png").write_bytes(png(samples, 8, colour))
    assert (read_mask(tmp_path / "a.png").reshape(*SHAPE, -1)[..., 0] == 3).all()
    samples[4, 5, -1] = samples[0, 0, -1] = 0
    (tmp_path / "a.png").write_bytes(png(samples, 8, colour))
    with pytest.raises(BadInput, match="2 of its pixels are transparent"):
        read_mask(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("deep.png", png(np.zeros((2, 4, 3)), 16, RGB), "a 16-bit image, and a mask is"),
        ("deep_alpha.png", png(np.full((2, 4, 2), 65535), 16, GREY_ALPHA), "a 16-bit image, and"),
        ("zero.png", b"", "empty"),
        ("text.png", b"none", "not an image"),
        ("cut.png", png(np.zeros((200, 200)), 8)[:60], "damaged"),
    ],
)
def test_what_is_no_mask_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=says) as caught:
        read_mask(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")


def dataset(folder: Path, suffix: str, *, names: tuple[str, ...] = ("a", "a_b")) -> Path:
    """Two images, 64×96, the name of one begins like the other's; class 3 right, class 0 left."""
    values = np.zeros((64, 96), np.uint8)
    values[:, 48:] = 3
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for name in names:
        Image.new("RGB", (96, 64), (90, 80, 70)).save(folder / "images" / f"{name}.jpg")
        (folder / "masks" / f"{name}{suffix}.png").write_bytes(png(values, 2))
        for kind in ("images", "masks"):  # what macOS leaves on foreign disks
            (folder / kind / f"._{name}.png").write_bytes(b"\0\5\26\7" * 25)
            (folder / kind / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return folder


@pytest.mark.parametrize("suffix", ["", "_mask", "_instance_color_RGB", "-labels of 'me'"])
def test_masks_with_a_suffix_are_found_and_the_remedy_names_it(
    tmp_path: Path, vocabulary: Vocabulary, suffix: str
) -> None:
    root = dataset(tmp_path, suffix)
    found = open_dataset(root, vocabulary, mask_suffix=suffix)
    assert found.names("all") == ("a", "a_b")
    for sample in found.samples("all"):
        assert (sample.ground_truth[:, :48] == 0).all()
        assert (sample.ground_truth[:, 48:] == 3).all()
    if suffix:
        with pytest.raises(BadInput, match="0 images named a, one was expected") as caught:
            open_dataset(root, vocabulary).read("a")
        assert caught.value.fix is not None
        assert shlex.split(caught.value.fix) == [f"--mask-suffix={suffix}"]


def test_no_suffix_is_proposed_that_fits_not_all(tmp_path: Path, vocabulary: Vocabulary) -> None:
    root = dataset(tmp_path, "_mask")
    (root / "masks" / "a_mask.png").rename(root / "masks" / "a_other.png")
    with pytest.raises(BadInput) as caught:
        open_dataset(root, vocabulary).read("a")
    assert caught.value.fix is None


def test_evaluate_reads_2_bit_masks_with_a_suffix_beside_dot_files(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    root = dataset(tmp_path / "data", "_mask")
    refused = call("evaluate", tiny_bundle, root)
    assert refused.exit_code == 1
    assert "--mask-suffix=_mask" in refused.stderr
    done = call("evaluate", tiny_bundle, root, "--mask-suffix=_mask", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["pixels"] == 2 * 64 * 96  # none of them is ignored


def test_a_dataset_of_colours_is_the_one_of_values(tmp_path: Path, vocabulary: Vocabulary) -> None:
    values, colours = dataset(tmp_path / "values", ""), dataset(tmp_path / "colours", "")
    for path in (colours / "masks").glob("a*.png"):
        samples = np.full((64, 96, 3), vocabulary.classes[0].colour)
        samples[:, 48:] = vocabulary.classes[3].colour
        path.write_bytes(png(samples, 8, RGB))
    found = [open_dataset(root, vocabulary).samples("all") for root in (values, colours)]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one.ground_truth, other.ground_truth)
