"""From the bytes of cameras, decoders and recordings to RGB: the only conversion of their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.errors import BadInput

__all__ = ["Colours", "PixelFormat", "PixelLayout", "to_rgb"]

Bytes = Any  # bytes, bytearray, memoryview, array: whatever gives its bytes without a copy

# Kr and Kb: the parts of red and blue in the luma (ITU-T H.273, table 4).
_MATRICES = {
    "601": (0.299, 0.114),
    "709": (0.2126, 0.0722),
    "2020": (0.2627, 0.0593),
    "240m": (0.212, 0.087),
}
_BLOCK = 64  # rows that are converted at a time: what lies between stays in the cache
_BITS = 5  # of the sums after the point: the largest, 17600, has room in 16 bits
_UNIT = 1 << _BITS


class PixelFormat(str, Enum):
    """How pixels lie in memory; the names are GStreamer's.

    RGB to BGRX, GRAY8, UYVY and YUY2 have one plane. NV12 has Y and then U and V in turns, I420
    has Y, U and V; both have one U and V for 2 × 2 pixels. X and A are read over.
    """

    RGB = "RGB"
    BGR = "BGR"
    RGBA = "RGBA"
    BGRA = "BGRA"
    RGBX = "RGBx"
    BGRX = "BGRx"
    GRAY8 = "GRAY8"
    UYVY = "UYVY"
    YUY2 = "YUY2"
    NV12 = "NV12"
    I420 = "I420"


# Per pixel: where red, green and blue lie, and how many bytes there are.
_PACKED = {
    PixelFormat.RGB: ((0, 1, 2), 3),
    PixelFormat.BGR: ((2, 1, 0), 3),
    PixelFormat.RGBA: ((0, 1, 2), 4),
    PixelFormat.BGRA: ((2, 1, 0), 4),
    PixelFormat.RGBX: ((0, 1, 2), 4),
    PixelFormat.BGRX: ((2, 1, 0), 4),
    PixelFormat.GRAY8: ((0, 0, 0), 1),
}


@dataclass(frozen=True)
class Colours:
    """What the values of pixels mean.

    Attributes:
        matrix: of YUV: ``"601"``, ``"709"``, ``"2020"`` or ``"240m"``. RGB and grey have none, and
            ignore it.
        full_range: black is 0 and white 255; otherwise black is 16 and white 235.

    Raises:
        BadInput: an unknown matrix.
    """

    matrix: str
    full_range: bool

    def __post_init__(self) -> None:
        if self.matrix not in _MATRICES:
            known = ", ".join(_MATRICES)
            raise BadInput(f"the colour matrix {self.matrix!r} is unknown; known are {known}")


@dataclass(frozen=True)
class PixelLayout:
    """Where the pixels of one frame lie in its bytes.

    Attributes:
        format: of the pixels.
        width: in pixels; need not be even.
        height: in pixels; need not be even.
        strides: of each plane, the bytes from one row to the next.
        offsets: of each plane, the bytes before its first row.
        colours: what the values mean.

    Raises:
        BadInput: no pixels, another number of planes, or a row that is longer than its stride.

    Examples:
        >>> from segclip_deploy.runtime.io.pixel_formats import Colours, PixelFormat, PixelLayout
        >>> hd = PixelLayout.tight(PixelFormat.NV12, 1920, 1080, Colours("709", full_range=False))
        >>> hd.strides, hd.offsets
        ((1920, 1920), (0, 2073600))
    """

    format: PixelFormat
    width: int
    height: int
    strides: tuple[int, ...]
    offsets: tuple[int, ...]
    colours: Colours

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise BadInput(f"a frame of {self.width} x {self.height} pixels has no pixels")
        planes = _planes(self.format, self.width, self.height)
        if not len(planes) == len(self.strides) == len(self.offsets):
            raise BadInput(f"{self.format.value} has {len(planes)} planes, not {len(self.strides)}")
        for (_, row), stride, offset in zip(planes, self.strides, self.offsets, strict=True):
            if stride < row or offset < 0:
                raise BadInput(
                    f"a row of {self.width} pixels of {self.format.value} has {row} bytes, "
                    f"and does not fit into {stride}"
                )

    @classmethod
    def tight(
        cls, pixel_format: PixelFormat, width: int, height: int, colours: Colours
    ) -> PixelLayout:
        """Of rows and planes that follow one another without a gap."""
        strides, offsets, end = [], [], 0
        for rows, row in _planes(pixel_format, width, height):
            strides.append(row)
            offsets.append(end)
            end += rows * row
        return cls(pixel_format, width, height, tuple(strides), tuple(offsets), colours)

    @property
    def size(self) -> int:
        """Bytes up to the end of the last pixel; padding after it may be missing."""
        planes = _planes(self.format, self.width, self.height)
        return max(
            offset + (rows - 1) * stride + row
            for (rows, row), stride, offset in zip(planes, self.strides, self.offsets, strict=True)
        )


def to_rgb(data: Bytes, layout: PixelLayout) -> NDArray[np.uint8]:
    """Convert a frame; the result is the only copy that is made of it.

    YUV follows ITU-T H.273, equations 38 to 46: with Kr, Kb of the matrix and Kg = 1 - Kr - Kb,
    ``R = Y + 2 (1 - Kr) V``, ``B = Y + 2 (1 - Kb) U``, ``G = (Y - Kr R - Kb B) / Kg``. Each pixel
    takes the U and V nearest to it, as FFmpeg does. The result is at most 1 from the exact value,
    rounded.

    Args:
        data: the bytes of the frame, anything with a buffer; more than ``layout.size`` is allowed.
        layout: where the pixels lie in it.

    Returns:
        (H, W, 3) uint8 RGB, rows from the top, memory of its own.

    Raises:
        BadInput: fewer bytes than the layout needs.

    Examples:
        >>> from segclip_deploy.runtime.io.pixel_formats import (
        ...     Colours, PixelFormat, PixelLayout, to_rgb
        ... )
        >>> one = PixelLayout.tight(PixelFormat.BGR, 1, 1, Colours("601", full_range=True))
        >>> to_rgb(bytes([255, 0, 7]), one).tolist()
        [[[7, 0, 255]]]
    """
    values = np.frombuffer(data, np.uint8)
    if values.size < layout.size:
        raise BadInput(
            f"{values.size} bytes; {layout.width} x {layout.height} pixels of "
            f"{layout.format.value} are {layout.size} bytes"
        )
    out = np.empty((layout.height, layout.width, 3), np.uint8)
    if layout.format in _PACKED:
        _copy_packed(values, layout, out)
    else:
        _convert_yuv(*_yuv_planes(values, layout), _Sums.of(layout.colours), out)
    return out


def _planes(pixel_format: PixelFormat, width: int, height: int) -> list[tuple[int, int]]:
    """Rows of each plane, and bytes of each row without padding."""
    if pixel_format in _PACKED:
        return [(height, width * _PACKED[pixel_format][1])]
    half_width, half_height = (width + 1) // 2, (height + 1) // 2
    if pixel_format is PixelFormat.NV12:
        return [(height, width), (half_height, 2 * half_width)]
    if pixel_format is PixelFormat.I420:
        return [(height, width), (half_height, half_width), (half_height, half_width)]
    return [(height, 4 * half_width)]


def _view(
    values: NDArray[np.uint8], layout: PixelLayout, plane: int, tail: tuple[int, ...]
) -> NDArray[np.uint8]:
    """A plane as (rows, *tail), without its padding and without a copy."""
    rows, _ = _planes(layout.format, layout.width, layout.height)[plane]
    inner = np.empty(tail, np.uint8).strides
    return np.ndarray(
        (rows, *tail), np.uint8, values, layout.offsets[plane], (layout.strides[plane], *inner)
    )


def _copy_packed(values: NDArray[np.uint8], layout: PixelLayout, out: NDArray[np.uint8]) -> None:
    places, size = _PACKED[layout.format]
    pixels = _view(values, layout, 0, (layout.width, size))
    if places == (0, 1, 2) and size == 3:
        out[...] = pixels
    else:
        for channel, place in enumerate(places):
            out[..., channel] = pixels[..., place]
    if not layout.colours.full_range:
        table = np.rint((np.arange(256) - 16) * (255 / 219)).clip(0, 255).astype(np.uint8)
        for rows in _blocks(layout.height):
            out[rows] = table[out[rows]]


def _yuv_planes(
    values: NDArray[np.uint8], layout: PixelLayout
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Y (H, W), U and V (H or half of it, half of W), as they lie."""
    half = (layout.width + 1) // 2
    if layout.format is PixelFormat.NV12:
        pairs = _view(values, layout, 1, (half, 2))
        return _view(values, layout, 0, (layout.width,)), pairs[..., 0], pairs[..., 1]
    if layout.format is PixelFormat.I420:
        y, u, v = (_view(values, layout, p, (w,)) for p, w in enumerate((layout.width, half, half)))
        return y, u, v
    quads = _view(values, layout, 0, (2 * half, 2))
    luma = 1 if layout.format is PixelFormat.UYVY else 0
    chroma = quads[..., 1 - luma]
    return quads[:, : layout.width, luma], chroma[:, 0::2], chroma[:, 1::2]


@dataclass(frozen=True)
class _Sums:
    """The conversion as sums of 16 bits: ``_UNIT`` times red, green and blue.

    Attributes:
        luma: factor of Y, in units of 1/4, so that 255 times it has room in 16 bits.
        red, green, blue: factors of U and V, and what is added to them.
    """

    luma: int
    red: tuple[float, float, float]
    green: tuple[float, float, float]
    blue: tuple[float, float, float]

    @classmethod
    def of(cls, colours: Colours) -> _Sums:
        kr, kb = _MATRICES[colours.matrix]
        kg = 1 - kr - kb
        full = colours.full_range
        y_scale, c_scale, black = (1.0, 1.0, 0) if full else (255 / 219, 255 / 224, 16)
        to_red, to_blue = 2 * (1 - kr) * c_scale, 2 * (1 - kb) * c_scale
        start = _UNIT * (0.5 - black * y_scale)  # half a step, since shifting rounds down

        def factors(u: float, v: float) -> tuple[float, float, float]:
            return _UNIT * u, _UNIT * v, start - 128 * _UNIT * (u + v)

        return cls(
            luma=round(4 * _UNIT * y_scale),
            red=factors(0, to_red),
            green=factors(-kb * to_blue / kg, -kr * to_red / kg),
            blue=factors(to_blue, 0),
        )


def _convert_yuv(
    y: NDArray[np.uint8],
    u: NDArray[np.uint8],
    v: NDArray[np.uint8],
    sums: _Sums,
    out: NDArray[np.uint8],
) -> None:
    """Convert block by block of rows; a table for each value would be three times slower."""
    height, width = y.shape
    tall = 1 if u.shape[0] == height else 2  # rows of pixels that share a U and V
    luma = np.zeros((_BLOCK, 2 * u.shape[1]), np.uint16)
    scratch = np.empty(luma.shape, np.int16)
    for rows in _blocks(height):
        block = y[rows]
        few = slice(rows.start // tall, -(-rows.stop // tall))
        count = tall * (few.stop - few.start)
        np.copyto(luma[: len(block), :width], block)
        np.multiply(luma, np.uint16(sums.luma), out=luma)
        np.right_shift(luma, 2, out=luma)
        pairs = luma[:count].view(np.int16).reshape(-1, tall, luma.shape[1])
        total = scratch[:count].reshape(pairs.shape)
        fine_u, fine_v = u[few].astype(np.float32), v[few].astype(np.float32)
        for channel, factors in enumerate((sums.red, sums.green, sums.blue)):
            np.add(pairs, _doubled(fine_u, fine_v, factors)[:, None], out=total)
            np.right_shift(total, _BITS, out=total)
            np.clip(total, 0, 255, out=total)
            out[rows, :, channel] = scratch[: len(block), :width]


def _doubled(
    u: NDArray[np.float32], v: NDArray[np.float32], factors: tuple[float, float, float]
) -> NDArray[np.int16]:
    """What U and V add to a channel, each value twice in its row."""
    by_u, by_v, start = map(np.float32, factors)
    part = u * by_u if by_u else v * by_v
    if by_u and by_v:
        part += v * by_v
    part += start
    once = np.rint(part, out=part).astype(np.int16).view(np.uint16)
    return (once.astype(np.uint32) * np.uint32(0x10001)).view(np.int16)


def _blocks(height: int) -> Iterator[slice]:
    for top in range(0, height, _BLOCK):
        yield slice(top, min(top + _BLOCK, height))
