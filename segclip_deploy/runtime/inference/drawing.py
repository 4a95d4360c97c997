"""Pictures of label maps: under a palette, and over the frame."""

from __future__ import annotations

import io
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX

__all__ = ["OPACITY", "label_image", "overlay", "png"]

OPACITY = 0.45
"""Of the class colours over the image, unless another is asked for."""

_PNG = {"compress_level": 1, "compress_type": zlib.Z_RLE}
"""Runs only. Of 1600×900 labels this takes 7 ms and 28 kB, Pillow's default 15 ms and 33 kB; of their
overlays 120 ms and 2.7 MB, the default 474 ms and 2.6 MB (CPU time, AMD EPYC, Pillow 13)."""


def label_image(labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Image.Image:
    """Class indices (H, W) under a palette (K, 3); ``IGNORE_INDEX`` is black."""
    image = Image.fromarray(labels)
    if labels.max() == IGNORE_INDEX:
        palette = np.pad(palette, ((0, 1 + IGNORE_INDEX - len(palette)), (0, 0)))
    image.putpalette(palette.tobytes())
    return image


def overlay(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    palette: NDArray[np.uint8],
    *,
    opacity: float = OPACITY,
) -> Image.Image:
    """The image (H, W, 3) with the colour of each pixel's class over it; bare where it has none."""
    image = Image.fromarray(pixels)
    colours = Image.fromarray(labels)
    colours.putpalette(palette.tobytes())
    mixed = Image.blend(image, colours.convert("RGB"), opacity)
    if labels.max() == IGNORE_INDEX:
        mixed.paste(image, mask=Image.fromarray(labels == IGNORE_INDEX))
    return mixed


def png(image: Image.Image) -> bytes:
    """An image as PNG, compressed for speed."""
    data = io.BytesIO()
    image.save(data, format="PNG", **_PNG)
    return data.getvalue()
