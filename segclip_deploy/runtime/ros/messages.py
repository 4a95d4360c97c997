"""Images of ROS messages to frames, and back; plain fields, so that recordings need no ROS."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.formats.image_file import loaded
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.io.pixel_formats import Colours, PixelFormat, PixelLayout, to_rgb

__all__ = ["ImageFields", "image_fields", "read_compressed", "read_image"]

_GREY = "mono8"
_FORMATS = {
    "rgb8": PixelFormat.RGB,
    "bgr8": PixelFormat.BGR,
    "rgba8": PixelFormat.RGBA,
    "bgra8": PixelFormat.BGRA,
    "yuv422": PixelFormat.UYVY,
    "uyvy": PixelFormat.UYVY,  # since ROS 2 Iron, for the same bytes
    "yuv422_yuy2": PixelFormat.YUY2,
    "yuyv": PixelFormat.YUY2,
}
# The messages do not say which matrix they mean; cv_bridge, and so most of ROS, takes this one.
_RGB, _YUV = Colours("601", full_range=True), Colours("601", full_range=False)


@dataclass(frozen=True)
class ImageFields:
    """The fields of a ``sensor_msgs/Image`` that tell its pixels; the header is not among them.

    Attributes:
        height, width: in pixels.
        encoding: a name of ``sensor_msgs/image_encodings.hpp``, such as ``"rgb8"``.
        is_bigendian: says nothing of pixels of 8 bits.
        step: bytes from one row to the next.
        data: the bytes: anything with a buffer.
    """

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


def read_image(
    fields: ImageFields, source: str, *, bands: tuple[int, int, int] | None = None
) -> Frame:
    """The frame of a ``sensor_msgs/Image``.

    Reads rgb8, bgr8, rgba8, bgra8, yuv422 (also called uyvy) and yuv422_yuy2 (yuyv); mono8 where
    ``bands`` are given. Alpha is read over. YUV is BT.601 of limited range, as cv_bridge takes it.
    The pixels of rgb8 are those of the message, not a copy.

    Args:
        fields: of the message.
        source: topic or recording, for errors and results.
        bands: which channels are red, green and blue, from 1; of mono8 (1, 1, 1).

    Raises:
        BadInput: another encoding, fewer bytes than it needs, mono8 without bands, or bands that it
            does not have.

    Examples:
        >>> from segclip_deploy.runtime.ros.messages import ImageFields, read_image
        >>> one = ImageFields(1, 1, "bgr8", 0, 3, bytes([255, 0, 7]))
        >>> read_image(one, "/camera").pixels.tolist()
        [[[7, 0, 255]]]
    """
    try:
        if fields.encoding == _GREY:
            grey = _rows(fields, PixelFormat.GRAY8, 1)
            return _chosen(grey, _GREY, source, bands)
        known = _FORMATS.get(fields.encoding)
        if known is None:
            raise BadInput(
                f"the encoding {fields.encoding!r} is not read; known are "
                f"{', '.join([*_FORMATS, _GREY])}",
                fix="let the camera publish one of these, or convert it with image_proc",
            )
        if known is PixelFormat.RGB:
            pixels = _rows(fields, known, 3)
        else:
            pixels = to_rgb(fields.data, _layout(fields, known))
    except BadInput as error:
        raise BadInput(error.what, where=source, fix=error.fix) from error
    return _chosen(pixels, fields.encoding, source, bands)


def read_compressed(
    stated: str, data: Any, source: str, *, bands: tuple[int, int, int] | None = None
) -> Frame:
    """The frame of a ``sensor_msgs/CompressedImage``: a JPEG or PNG of 8 bits.

    Args:
        stated: the message's ``format``, such as ``"rgb8; jpeg compressed bgr8"``; for errors. What
            the bytes are decides.
        data: the bytes: anything with a buffer.
        source: topic or recording, for errors and results.
        bands: as of ``read_image``; a grey picture needs (1, 1, 1).

    Raises:
        BadInput: neither JPEG nor PNG, damaged, too large, of more than 8 bits, or grey without bands.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except Exception as error:  # Pillow's readers raise many types on damaged data
        raise BadInput(
            f"the format {stated!r} is not read, or its data is damaged; JPEG and PNG are read",
            where=source,
        ) from error
    with image:
        stored = loaded(image, source)
    modes = {"L": ("L", _GREY), "RGB": ("RGB", "rgb8"), "RGBA": ("RGB", "rgba8")}
    if stored.image.mode not in modes or ";16" in stored.raw_mode:
        raise BadInput(
            f"{stored.kind} in format {stated!r}, and the model takes 8-bit RGB", where=source
        )
    mode, encoding = modes[stored.image.mode]
    pixels = np.asarray(stored.image.convert(mode))
    return _chosen(pixels.reshape(*pixels.shape[:2], -1), encoding, source, bands)


def image_fields(pixels: NDArray[np.uint8]) -> ImageFields:
    """The fields of pixels (H, W), as mono8, or (H, W, 3) RGB, as rgb8.

    Returns:
        whose ``data`` is a flat, contiguous uint8 array: that of ``pixels`` itself where it can be.
    """
    height, width, *channels = pixels.shape
    encoding = "rgb8" if channels else _GREY
    data = np.ascontiguousarray(pixels).reshape(-1)
    return ImageFields(height, width, encoding, 0, data.size // height, data)


def _layout(fields: ImageFields, known: PixelFormat) -> PixelLayout:
    colours = _YUV if known in (PixelFormat.UYVY, PixelFormat.YUY2) else _RGB
    return PixelLayout(known, fields.width, fields.height, (fields.step,), (0,), colours)


def _rows(fields: ImageFields, known: PixelFormat, channels: int) -> NDArray[np.uint8]:
    """Pixels (H, W, channels) as they lie in the message, without a copy."""
    needed, data = _layout(fields, known).size, np.frombuffer(fields.data, np.uint8)
    if data.size < needed:
        raise BadInput(
            f"{data.size} bytes; {fields.width} x {fields.height} pixels of {fields.encoding} "
            f"are {needed} bytes"
        )
    shape = fields.height, fields.width, channels
    return np.ndarray(shape, np.uint8, data, 0, (fields.step, channels, 1))


def _chosen(
    pixels: NDArray[np.uint8], encoding: str, source: str, bands: tuple[int, int, int] | None
) -> Frame:
    """The frame of the channels that were asked for, of (H, W, 1) or (H, W, 3)."""
    count = pixels.shape[2]
    if bands is None and count == 1:
        raise BadInput(
            f"the encoding {encoding} has one channel, and the model takes RGB",
            where=source,
            fix="say that grey stands for all three: --bands 1,1,1",
        )
    if bands is None or (count == 3 and bands == (1, 2, 3)):
        return Frame(pixels, source)
    if max(bands) > count:
        raise BadInput(
            f"the encoding {encoding} has {count} channel{'s' * (count > 1)}, not {max(bands)}",
            where=source,
            fix="--bands 1,1,1" if count == 1 else "leave --bands out",
        )
    return Frame(np.ascontiguousarray(pixels[..., [band - 1 for band in bands]]), source)
