"""Images of ROS messages against FFmpeg's own reading of the same bytes, and what is refused."""

from __future__ import annotations

import array
import io

import av
import numpy as np
import pytest
from PIL import Image

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.ros.messages import (
    ImageFields,
    image_fields,
    read_compressed,
    read_image,
)
from tests.support.fakes import random_frame

# Encoding of ROS, the name that FFmpeg has for the same bytes, and how far its result may be.
ENCODINGS = {
    "rgb8": ("rgb24", 0),
    "bgr8": ("bgr24", 0),
    "rgba8": ("rgba", 0),
    "bgra8": ("bgra", 0),
    "yuv422": ("uyvy422", 3),
    "uyvy": ("uyvy422", 3),
    "yuv422_yuy2": ("yuyv422", 3),
    "yuyv": ("yuyv422", 3),
}


def padded(rows: np.ndarray, padding: int) -> array.array:
    """Rows of bytes (H, n) with unused bytes after each but the last, as a message has them."""
    wide = np.pad(rows, ((0, 0), (0, padding)), constant_values=77).tobytes()
    return array.array("B", wide[: len(wide) - padding])


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_encoding_is_read_as_ffmpeg_reads_it(encoding: str, padding: int) -> None:
    """FFmpeg's own sums for YUV are coarser than ours: 3 of 255 apart."""
    theirs, apart = ENCODINGS[encoding]
    frame = av.VideoFrame.from_ndarray(random_frame(18, 32).pixels, "rgb24")
    stored = frame.reformat(format=theirs)
    expected = stored.to_ndarray(format="rgb24").astype(int)
    plane = stored.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(18, plane.line_size)
    fields = ImageFields(18, 32, encoding, 0, rows.shape[1] + padding, padded(rows, padding))
    pixels = read_image(fields, "/camera").pixels
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= apart


def test_pixels_of_rgb8_are_those_of_the_message() -> None:
    data = array.array("B", bytes(range(12)))
    pixels = read_image(ImageFields(2, 2, "rgb8", 0, 6, data), "/camera").pixels
    data[0] = 200
    assert pixels[0, 0].tolist() == [200, 1, 2]


def test_bands_choose_channels() -> None:
    grey = ImageFields(1, 2, "mono8", 0, 2, bytes([9, 200]))
    assert read_image(grey, "/c", bands=(1, 1, 1)).pixels.tolist() == [[[9] * 3, [200] * 3]]
    colour = ImageFields(1, 1, "bgr8", 0, 3, bytes([1, 2, 3]))
    assert read_image(colour, "/c", bands=(3, 2, 1)).pixels.tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize(
    ("fields", "bands", "said"),
    [
        (ImageFields(2, 2, "bayer_rggb8", 0, 2, bytes(4)), None, "/c: the encoding 'bayer_rggb8' is not read; known are rgb8"),
        (ImageFields(2, 2, "mono8", 0, 2, bytes(4)), None, "--bands 1,1,1"),
        (ImageFields(2, 2, "mono8", 0, 2, bytes(4)), (1, 2, 3), "has 1 channel, not 3; --bands 1,1,1"),
        (ImageFields(2, 2, "rgb8", 0, 6, bytes(12)), (1, 2, 4), "has 3 channels, not 4; leave --bands out"),
        (ImageFields(2, 2, "rgb8", 0, 6, bytes(11)), None, "/c: 11 bytes; 2 x 2 pixels of rgb8 are 12"),
        (ImageFields(2, 2, "bgr8", 0, 6, bytes(11)), None, "/c: 11 bytes"),
        (ImageFields(2, 2, "mono8", 0, 2, bytes(3)), (1, 1, 1), "/c: 3 bytes"),
        (ImageFields(2, 2, "rgb8", 0, 5, bytes(12)), None, "/c: a row of 2 pixels"),
        (ImageFields(0, 2, "rgb8", 0, 6, b""), None, "/c: a frame of 2 x 0 pixels"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(
    fields: ImageFields, bands: tuple[int, int, int] | None, said: str
) -> None:
    with pytest.raises(BadInput) as caught:
        read_image(fields, "/c", bands=bands)
    assert said in str(caught.value)


def encoded(image: Image.Image, kind: str) -> array.array:
    data = io.BytesIO()
    image.save(data, kind)
    return array.array("B", data.getvalue())


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_compressed_images_are_those_that_pillow_reads(kind: str) -> None:
    image = Image.fromarray(random_frame(16, 24).pixels)
    data = encoded(image, kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    stated = f"rgb8; {kind} compressed bgr8"
    assert np.array_equal(read_compressed(stated, data, "/c").pixels, expected)
    grey = encoded(image.convert("L"), kind)
    expected = np.asarray(Image.open(io.BytesIO(grey)).convert("RGB"))
    assert np.array_equal(read_compressed("", grey, "/c", bands=(1, 1, 1)).pixels, expected)


def test_alpha_of_a_compressed_image_is_read_over() -> None:
    pixels = np.full((4, 4, 4), (1, 2, 3, 0), np.uint8)
    data = encoded(Image.fromarray(pixels, "RGBA"), "png")
    assert read_compressed("png", data, "/c").pixels[0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (array.array("B", b"no picture"), "/c: the format 'x' is not read, or its data is damaged"),
        (encoded(Image.new("RGB", (8, 8)), "bmp"), "the format 'x' is not read"),
        (
            encoded(Image.fromarray(random_frame(99, 99).pixels), "jpeg")[:2000],
            "/c: damaged or unreadable",
        ),
        (encoded(Image.new("I;16", (8, 8)), "png"), "a 16-bit image in format 'x'"),
        (encoded(Image.new("L", (8, 8)), "png"), "--bands 1,1,1"),
    ],
)
def test_a_compressed_image_that_cannot_be_read_is_said(data: array.array, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_compressed("x", data, "/c")
    assert said in str(caught.value)


def test_fields_of_pixels_are_read_back() -> None:
    pixels = random_frame(5, 7).pixels
    fields = image_fields(pixels[:, ::-1])
    assert (fields.encoding, fields.step, fields.data.flags.c_contiguous) == ("rgb8", 21, True)
    assert np.array_equal(read_image(fields, "/c").pixels, pixels[:, ::-1])
    labels = image_fields(np.ascontiguousarray(pixels[..., 0]))
    assert (labels.encoding, labels.height, labels.width, labels.step) == ("mono8", 5, 7, 7)
    assert labels.data.tobytes() == pixels[..., 0].tobytes()
