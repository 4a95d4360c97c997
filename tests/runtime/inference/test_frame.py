"""Image files: what is read, what is refused, and the one pre-processing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.frame import (
    Frame,
    list_images,
    prepare,
    read_frame,
)
from segclip_deploy.runtime.io.telemetry.exif import read_capture
from tests.support.fakes import random_frame
from tests.support.pngs import RGB, png

# The same examples on every run, and no deadline: the machine may be busy.
PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)

NOISE = random_frame(20, 30).pixels


def encoded(mode: str, kind: str = "PNG", **options: Any) -> bytes:
    """Noise in a Pillow mode, as the bytes of a file."""
    stream = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("zero.png", b"", "empty"),
        ("truncated.jpg", encoded("RGB", "JPEG")[:-200], "damaged"),
        ("truncated.png", encoded("RGB")[:-200], "damaged"),
        ("text.png", b"this is no image\n", "not an image"),
        ("grey.png", encoded("L"), "greyscale"),
        ("alpha.png", encoded("RGBA"), "RGBA"),
        ("palette.png", encoded("P"), "palette"),
        ("press.jpg", encoded("CMYK", "JPEG"), "CMYK"),
        ("deep.png", png(np.full((2, 4), 1000), 16), "16-bit"),
        pytest.param(
            "deep_rgb.png",
            png(np.full((2, 4, 3), 1000), 16, RGB),
            "16-bit",
            id="deep_rgb.png-16-bit",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "bytes",
)
@pytest.mark.faults
def test_a_bad_image_is_refused_by_name_and_reason(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_frame(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_image_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "folder.png"
    folder.mkdir()
    for path in (folder, tmp_path / "missing.png"):
        with pytest.raises(BadInput) as caught:
            read_frame(path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_a_good_image_is_read_bit_by_bit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"good.{suffix}"
    Image.fromarray(NOISE).save(path)
    frame = read_frame(path)
    assert frame.source == str(path)
    assert frame.pixels.dtype == np.uint8
    np.testing.assert_array_equal(frame.pixels, NOISE)


def test_an_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    path.write_bytes(encoded("RGB", exif=exif))
    np.testing.assert_array_equal(read_frame(path).pixels, NOISE)


@pytest.mark.parametrize("side", [11, 30], ids=["Pillow would warn", "Pillow would refuse"])
@pytest.mark.faults
def test_a_header_that_promises_too_many_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / "bomb.png"
    Image.new("RGB", (side, side)).save(path)
    with pytest.raises(BadInput, match=r"over the bound of 0\.0001.*--max-megapixels") as caught:
        read_frame(path)
    assert str(path) in str(caught.value)


@pytest.mark.faults
def test_the_bound_of_megapixels_is_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thrice the bound, where Pillow refuses; the header tells when it was taken all the same."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    path = tmp_path / "large.jpg"
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:02:03 04:05:06"
    Image.new("RGB", (2000, 1501), (1, 2, 3)).save(path, exif=exif)
    with pytest.raises(BadInput) as caught:
        read_frame(path)
    assert str(caught.value) == (
        f"{path}: 2000×1501 is 3.002 megapixels, over the bound of 1; cut it into tiles, or "
        "allow it: segclip-deploy run … --max-megapixels 4"
    )
    with pytest.raises(BadInput, match=r"over the bound of 3\.001;"):
        read_frame(path, max_megapixels=3.001)
    assert read_frame(path, max_megapixels=3.002).pixels.shape == (1501, 2000, 3)
    assert read_frame(path, max_megapixels=4).pixels.shape == (1501, 2000, 3)
    assert read_capture(path).time == "2024-02-03T04:05:06"
    assert Image.MAX_IMAGE_PIXELS == 1_000_000


def test_images_of_a_folder_are_listed_by_name_without_other_files(tmp_path: Path) -> None:
    for name in (
        "b.JPG",
        "a.png",
        "c.tiff",
        "notes.txt",
        "a.png.xml",
        "sub/d.png",
        "._a.png",
        ".DS_Store",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.name for p in list_images(tmp_path)] == ["a.png", "b.JPG", "c.tiff"]
    assert list_images(tmp_path / "a.png") == [tmp_path / "a.png"]


def test_where_there_is_no_image_listing_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadInput, match=r"no images in|no such file") as caught:
            list_images(path)
        assert str(caught.value).startswith(f"{path}: ")


def mirrored(length: int, to: int) -> NDArray[np.intp]:
    """Indices that walk to and fro along an axis, without repeating its ends."""
    to_and_fro = [*range(length), *range(length - 2, 0, -1)]
    return np.resize(np.array(to_and_fro), max(length, to))


@PROPERTY
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    least=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_prepare_mirrors_what_is_missing_below_and_to_the_right(
    size: tuple[int, int], least: tuple[int, int]
) -> None:
    frame = random_frame(*size)
    pixels, prepared = frame.pixels, prepare(frame, *least)
    rows, columns = mirrored(size[0], least[0]), mirrored(size[1], least[1])
    np.testing.assert_array_equal(prepared, pixels[rows][:, columns])
    np.testing.assert_array_equal(prepared[: size[0], : size[1]], pixels)
    assert prepared.dtype == np.uint8
    assert prepared.flags.c_contiguous


def test_prepare_leaves_a_larger_frame_as_it_is_but_contiguous() -> None:
    turned = NOISE.transpose(1, 0, 2)
    prepared = prepare(Frame(turned, "turned"), 30, 20)
    np.testing.assert_array_equal(prepared, turned)
    assert prepared.flags.c_contiguous


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8, 3), dtype=np.float32),
        np.zeros((8, 8, 4), dtype=np.uint8),
        np.zeros((8, 8), dtype=np.uint8),
        np.zeros((0, 8, 3), dtype=np.uint8),
    ],
    ids=["float", "4 channels", "greyscale", "empty"],
)
def test_a_frame_is_8_bit_rgb_or_refused(pixels: NDArray[Any]) -> None:
    with pytest.raises(BadInput, match="not uint8"):
        Frame(pixels, "odd")
