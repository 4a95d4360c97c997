"""Masks: the integers a file stores, or the colours, never something in between."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.formats.image_file import open_image

__all__ = ["read_mask"]

_VALUES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Pillow's modes of one channel."""


def read_mask(path: Path, *, max_megapixels: float | None = None) -> NDArray[np.uint8]:
    """Read a mask: the integers it stores, whatever its bit depth, or its colours.

    A palette image yields its indices, and not its colours. An alpha channel that is opaque
    everywhere says nothing, and is left out.

    Args:
        path: the file.
        max_megapixels: how large it may be; by default Pillow's bound, 89.5.

    Returns:
        (H, W) values as they are stored, or (H, W, 3) RGB colours.

    Raises:
        BadInput: unreadable, truncated, partly transparent, of values over 255 or that are no
            integers, or of another kind of image.
    """
    stored = open_image(path, max_megapixels=max_megapixels)
    image = stored.image
    if "A" in image.getbands():
        image = _without_alpha(image, path)
    if image.mode == "RGB" and ";16" not in stored.raw_mode:
        return np.asarray(image)
    if image.mode not in _VALUES or (image.mode == "L" and ";16" in stored.raw_mode):
        raise BadInput(
            f"{stored.kind}, and a mask is class values, or colours of 8 bits",
            where=path,
            fix="write it as greyscale, palette or RGB PNG",
        )
    return _in_8_bits(_unscaled(np.asarray(image), image.mode, stored.raw_mode), path)


def _without_alpha(image: Image.Image, path: Path) -> Image.Image:
    """The channels but alpha."""
    alpha = np.asarray(image.getchannel("A"))
    transparent = int(np.count_nonzero(alpha != 255))
    if transparent:
        raise BadInput(
            f"{transparent} of its pixels are transparent, and a mask says a class for each",
            where=path,
            fix="give those pixels a class or the ignore value, and write it without alpha",
        )
    return image.convert(image.mode.removesuffix("A"))


def _unscaled(array: NDArray[Any], mode: str, raw_mode: str) -> NDArray[Any]:
    """Undo what Pillow does to low depths, 3 of two bits to 255, and to TIFFs in which 0 is white."""
    if mode not in ("1", "L"):
        return array
    packing = re.search(r";(\d?)(I?)R?$", raw_mode)
    bits, inverted = packing.groups() if packing else ("", "")
    levels = (1 << (1 if mode == "1" else int(bits or 8))) - 1
    if mode == "L":
        array = array // (255 // levels)
    values = array.astype(np.uint8)
    return levels - values if inverted else values


def _in_8_bits(values: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """The same values as bytes, if they are integers up to 255."""
    if values.dtype != np.uint8:
        fitting = (values >= 0) & (values <= 255) & (values == np.floor(values))
        if not fitting.all():
            wrong = np.unique(values[~fitting])
            shown = ", ".join(f"{value:g}" for value in wrong[:3])
            raise BadInput(
                f"{len(wrong)} of its values are no classes, which are integers from 0 to 255: "
                f"{shown}{', …' if len(wrong) > 3 else ''}",
                where=path,
                fix="write class values, or ignore those pixels with the vocabulary's value",
            )
    return values.astype(np.uint8)
