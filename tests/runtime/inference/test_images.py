"""A Segmenter is called with paths, arrays, pictures of Pillow and frames, and all give the same."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.frame import Frame, read_frame
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.open_engine import open_segmenter
from tests.conftest import EXAMPLE
from tests.runtime.formats.test_geotiff import METRE, PROJECTED, write_geotiff
from tests.support.fakes import FakeBackend, random_frame
from tests.support.pngs import RGB, png

PIXELS = random_frame(50, 70).pixels


@pytest.fixture
def segment() -> Segmenter:
    return Segmenter(FakeBackend(64, 64), InputSpec(64, 64), load_vocabulary("dubai"))


def refusal(call: Callable[[Any], object], image: object) -> str:
    with pytest.raises(BadInput) as caught:
        call(image)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_engine_labels_a_path_an_array_and_a_picture_alike(tiny_bundle: Path) -> None:
    path = EXAMPLE / "images" / "tile6_part8.jpg"
    with open_segmenter(tiny_bundle) as segment, Image.open(path) as picture:
        expected = segment.segment(read_frame(path)).labels
        assert len(np.unique(expected)) > 1
        for image in (str(path), path, np.asarray(picture), picture, read_frame(path)):
            np.testing.assert_array_equal(segment(image).labels, expected)


def test_a_view_of_an_array_is_taken_as_it_is_seen(segment: Segmenter) -> None:
    bgr = np.ascontiguousarray(PIXELS[..., ::-1])
    np.testing.assert_array_equal(segment(bgr[..., ::-1]).labels, segment(PIXELS).labels)


def test_no_way_applies_an_exif_orientation(segment: Segmenter, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    Image.fromarray(PIXELS).save(path, exif=exif)
    expected = segment(PIXELS).labels
    np.testing.assert_array_equal(segment(path).labels, expected)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(segment(picture).labels, expected)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I", "F", "16 bits", "pages"]
)
def test_a_picture_is_refused_in_the_words_for_its_file(
    segment: Segmenter, tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "picture.tif"
    image = Image.fromarray(PIXELS)
    if mode == "16 bits":
        path.write_bytes(png(np.full((2, 4, 3), 1000), 16, RGB))
    elif mode == "pages":
        image.save(path, save_all=True, append_images=[image])
    else:
        image.convert("L" if mode in "IF" else "RGB").convert(mode).save(path)
    of_the_file = refusal(segment, path)
    with Image.open(path) as picture:
        assert refusal(segment, picture) == of_the_file
    assert of_the_file.startswith(f"{path}: ")


def test_a_picture_of_no_file_is_refused_as_one(segment: Segmenter) -> None:
    says = refusal(segment, Image.fromarray(PIXELS).convert("RGBA"))
    assert says.startswith("a PIL image: an RGBA image, and the model takes 8-bit RGB; ")


def test_a_truncated_picture_is_refused(segment: Segmenter) -> None:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    picture = Image.open(io.BytesIO(stream.getvalue()[:-200]))
    assert "damaged" in refusal(segment, picture)


@pytest.mark.parametrize(
    ("array", "given"),
    [
        (PIXELS[..., 0], "uint8 (50, 70)"),
        (PIXELS.transpose(2, 0, 1), "uint8 (3, 50, 70)"),
        (np.dstack([PIXELS, PIXELS[..., :1]]), "uint8 (50, 70, 4)"),
        (PIXELS / 255, "float64 (50, 70, 3)"),
        (PIXELS[None], "uint8 (1, 50, 70, 3)"),
        (PIXELS[:0], "uint8 (0, 70, 3)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_array_is_told_what_it_is_and_what_is_taken(
    segment: Segmenter, array: Any, given: str
) -> None:
    says = refusal(segment, array)
    assert says.startswith(f"an array: frame is {given}, not uint8 (H, W, 3); ")


@pytest.mark.parametrize("thing", [None, 3, [[1, 2, 3]], b"a.png"])
def test_what_is_no_image_is_refused(segment: Segmenter, thing: object) -> None:
    says = refusal(segment, thing)
    assert f"builtins.{type(thing).__name__}" in says
    assert "a path, an (H, W, 3) uint8 RGB array, a PIL image or a Frame" in says


def test_what_run_labels_is_sent_there(segment: Segmenter, tmp_path: Path) -> None:
    film, raster, folder = tmp_path / "a.mp4", tmp_path / "a.tif", tmp_path / "images"
    film.write_bytes(b"\0\0\0\x18ftypisom")
    write_geotiff(raster, 0.3, {1024: PROJECTED, 3076: METRE})
    folder.mkdir()
    for source, what in ((film, "a video"), (raster, "a georeferenced raster"), (folder, "a fold")):
        says = refusal(segment, source)
        assert says.startswith(f"{source}: {what}")
        assert says.endswith(f"; segclip-deploy run ENGINE {source} -o OUT")
        assert refusal(segment, str(source)) == says
    camera = refusal(segment, "rtsp://me:secret@cam/1")
    assert camera.startswith("rtsp://cam/1: a camera ")
    assert "secret" not in camera
    assert "a camera" in refusal(segment, "/dev/null")


def test_a_closed_segmenter_says_so(segment: Segmenter) -> None:
    frame = Frame(PIXELS, "noise")
    with segment:
        segment(frame)
    segment.close()  # a second time does nothing
    for use in (segment, segment.segment, lambda _: next(segment.rows((64, 64), lambda w: None))):
        assert refusal(use, frame) == "fake: the segmenter is closed; open it again to use it"


def test_a_segmenter_is_closed_without_with(segment: Segmenter) -> None:
    segment.close()
    assert segment.backend.closed  # type: ignore[attr-defined]
