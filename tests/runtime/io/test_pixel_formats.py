"""Conversion to RGB, held against FFmpeg's swscale and against the exact formula."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.pixel_formats import Colours, PixelFormat, PixelLayout, to_rgb

FFMPEG_NAMES = {
    PixelFormat.RGB: "rgb24",
    PixelFormat.BGR: "bgr24",
    PixelFormat.RGBA: "rgba",
    PixelFormat.BGRA: "bgra",
    PixelFormat.RGBX: "rgb0",
    PixelFormat.BGRX: "bgr0",
    PixelFormat.GRAY8: "gray",
    PixelFormat.UYVY: "uyvy422",
    PixelFormat.YUY2: "yuyv422",
    PixelFormat.NV12: "nv12",
    PixelFormat.I420: "yuv420p",
}
FFMPEG_MATRICES = {"601": "ITU601", "709": "ITU709", "2020": "BT2020", "240m": "SMPTE240M"}
YUV = [PixelFormat.UYVY, PixelFormat.YUY2, PixelFormat.NV12, PixelFormat.I420]

# swscale's fast paths calculate with fewer bits; a wrong matrix or range is off by 20 and more.
SWSCALE_TOLERANCE = 3


def random_bytes(layout: PixelLayout) -> NDArray[np.uint8]:
    """Every value of Y, U and V, also those outside of the limited range."""
    return np.random.default_rng(7).integers(0, 256, layout.size, dtype=np.uint8)


def by_ffmpeg(data: NDArray[np.uint8], layout: PixelLayout) -> NDArray[np.uint8]:
    av = pytest.importorskip("av")
    from av.video.reformatter import ColorRange, Colorspace, Interpolation

    frame = av.VideoFrame(layout.width, layout.height, FFMPEG_NAMES[layout.format])
    ends = [*layout.offsets[1:], layout.size]
    for plane, stride, start, end in zip(
        frame.planes, layout.strides, layout.offsets, ends, strict=True
    ):
        rows = data[start:end].reshape(-1, stride)
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: len(rows), :stride] = rows
    matrix = getattr(Colorspace, FFMPEG_MATRICES[layout.colours.matrix])
    ranges = ColorRange.JPEG if layout.colours.full_range else ColorRange.MPEG
    plain: NDArray[np.uint8] = frame.reformat(
        format="rgb24",
        interpolation=Interpolation.POINT,  # the nearest U and V
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=ranges,
        dst_color_range=ColorRange.JPEG,
    ).to_ndarray()
    return plain


def exact(y: Any, u: Any, v: Any, kr: float, kb: float, *, full: bool) -> NDArray[np.float64]:
    """H.273, equations 38 to 46, in 64 bits."""
    luma = y / 255 if full else (y - 16) / 219
    blue, red = ((c - 128) / (255 if full else 224) for c in (u, v))
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return np.asarray(np.stack([r, g, b], -1).clip(0, 1) * 255)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", FFMPEG_MATRICES)
@pytest.mark.parametrize("pixel_format", YUV)
def test_yuv_is_what_ffmpeg_makes_of_it(pixel_format: PixelFormat, matrix: str, full: bool) -> None:
    layout = PixelLayout.tight(pixel_format, 64, 130, Colours(matrix, full))
    data = random_bytes(layout)
    ours, theirs = (convert(data, layout).astype(int) for convert in (to_rgb, by_ffmpeg))
    assert ours.std() > 50
    assert np.abs(ours - theirs).max() <= SWSCALE_TOLERANCE
    for other in FFMPEG_MATRICES:  # so that the test sees another matrix, and another range
        for colours in (Colours(other, full), Colours(matrix, not full)):
            if colours != layout.colours:
                wrong = to_rgb(data, replace(layout, colours=colours)).astype(int)
                assert np.abs(wrong - theirs).max() > SWSCALE_TOLERANCE


@pytest.mark.parametrize("pixel_format", sorted(set(FFMPEG_NAMES) - set(YUV)))
def test_packed_pixels_are_copied_as_ffmpeg_copies_them(pixel_format: PixelFormat) -> None:
    layout = PixelLayout.tight(pixel_format, 64, 130, Colours("601", full_range=True))
    data = random_bytes(layout)
    np.testing.assert_array_equal(to_rgb(data, layout), by_ffmpeg(data, layout))


def test_grey_of_limited_range_is_stretched() -> None:
    layout = PixelLayout.tight(PixelFormat.GRAY8, 5, 1, Colours("601", full_range=False))
    found = to_rgb(bytes([0, 16, 125, 235, 255]), layout)
    assert found[0, :, 1].tolist() == [0, 0, 127, 255, 255]  # 109 / 219 * 255 = 126.9


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", ["601", "709", "2020"])
def test_every_value_is_within_one_of_the_formula(matrix: str, full: bool) -> None:
    layout = PixelLayout.tight(PixelFormat.I420, 512, 512, Colours(matrix, full))
    data = random_bytes(layout)
    y = data[: 512 * 512].reshape(512, 512).astype(float)
    u, v = (p.repeat(2, 0).repeat(2, 1) for p in data[512 * 512 :].reshape(2, 256, 256))
    kr, kb = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}[matrix]
    away = np.abs(
        to_rgb(data, layout) - exact(y, u.astype(float), v.astype(float), kr, kb, full=full)
    )
    assert away.max() < 1
    assert away.mean() < 0.27  # of rounding alone: 0.25


@pytest.mark.parametrize("pixel_format", PixelFormat)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 5), (64, 65), (33, 128)])
def test_padding_offsets_and_odd_sizes_change_nothing(
    pixel_format: PixelFormat, width: int, height: int
) -> None:
    tight = PixelLayout.tight(pixel_format, width, height, Colours("709", full_range=False))
    data = random_bytes(tight)
    strides = tuple(stride + 13 for stride in tight.strides)
    ends = [*tight.offsets[1:], tight.size]
    planes = [
        data[start:end].reshape(-1, stride)
        for start, end, stride in zip(tight.offsets, ends, tight.strides, strict=True)
    ]
    roomy, offsets = bytearray(b"\xaa" * 5), []
    for plane in planes:
        offsets.append(len(roomy))
        for row in plane:
            roomy += row.tobytes() + b"\x55" * 13
    layout = replace(tight, strides=strides, offsets=tuple(offsets))
    np.testing.assert_array_equal(to_rgb(roomy, layout), to_rgb(data, tight))
    # The last row's padding may be missing, as it is in many buffers.
    assert layout.size == len(roomy) - 13
    to_rgb(memoryview(roomy)[: layout.size], layout)
    with pytest.raises(BadInput, match=rf"{layout.size} bytes"):
        to_rgb(memoryview(roomy)[: layout.size - 1], layout)


@pytest.mark.parametrize("pixel_format", PixelFormat)
def test_a_frame_is_copied_once(pixel_format: PixelFormat) -> None:
    layout = PixelLayout.tight(pixel_format, 640, 2048, Colours("709", full_range=True))
    data = random_bytes(layout)
    frame = 3 * layout.width * layout.height
    tracemalloc.start()
    to_rgb(data, layout)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The result, and blocks of 64 of the 2048 rows. A second frame in any format is a third more.
    assert frame <= peak < 1.3 * frame


def test_a_converted_frame_has_memory_of_its_own() -> None:
    layout = PixelLayout.tight(PixelFormat.RGB, 2, 1, Colours("601", full_range=True))
    data = bytearray(6)
    found = to_rgb(data, layout)
    data[:] = b"\xff" * 6  # a camera reuses its buffers
    assert not found.any()


def test_layouts_that_cannot_be_are_refused() -> None:
    full = Colours("709", full_range=True)
    with pytest.raises(BadInput, match="NV12 has 2 planes, not 1"):
        PixelLayout(PixelFormat.NV12, 4, 4, (4,), (0,), full)
    with pytest.raises(BadInput, match="has 12 bytes, and does not fit into 11"):
        PixelLayout(PixelFormat.RGB, 4, 4, (11,), (0,), full)
    with pytest.raises(BadInput, match="0 x 4 pixels"):
        PixelLayout.tight(PixelFormat.RGB, 0, 4, full)
    with pytest.raises(BadInput, match="'470' is unknown; known are 601"):
        Colours("470", full_range=True)
