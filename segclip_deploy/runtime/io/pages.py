"""Pictures of more than one page: TIFFs, and GIF, PNG and WebP that move."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.formats.image_file import FORMATS, is_16_bit, own_pages

__all__ = ["count_pages", "read_pages"]

_READ = (*FORMATS, "GIF")


def count_pages(path: Path) -> int | None:
    """How many pages ``read_pages`` gives of a picture; smaller copies and masks of pages are none.

    None of an ordinary picture of one page, and of one that cannot be read: reading it says why.
    """
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # reading the pixels speaks of what is odd in it
            with Image.open(path, formats=_READ) as image:
                if image.format != "GIF" and getattr(image, "n_frames", 1) == 1:
                    return None
                count = len(own_pages(image))
                return count if count > 1 or image.format == "GIF" else None
    except Exception:  # Pillow's decoders raise many types on damaged files
        return None


def read_pages(path: Path) -> Iterator[tuple[NDArray[np.uint8], float | None]]:
    """Every page, (H, W, 3) uint8 RGB, and its time in seconds where the picture moves.

    Raises:
        BadInput: a page that is damaged, transparent, too large, or not 8-bit RGB; those before
            it have been given.
    """
    number, start = 0, 0.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_READ) as image:
                moves = image.format != "TIFF"
                for number, page in enumerate(own_pages(image)):
                    image.seek(page)
                    pixels = _rgb(image, where=f"{path}, page {number + 1}")
                    yield pixels, start if moves else None
                    start += float(image.info.get("duration", 0)) / 1e3
    except BadInput:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInput(
            f"page {number + 1} has over {Image.MAX_IMAGE_PIXELS} pixels", where=path
        ) from error
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise BadInput(
            f"page {number + 1} is damaged or unreadable ({error})", where=path
        ) from error


def _rgb(page: Image.Image, *, where: str) -> NDArray[np.uint8]:
    """A page's pixels. Palettes are exact; alpha is left out where it hides nothing."""
    deep = is_16_bit(page)
    page.load()
    if page.mode == "P":
        page = page.convert("RGBA" if "transparency" in page.info else "RGB")
    if page.mode == "RGBA" and np.asarray(page)[..., 3].min() == 255:
        page = page.convert("RGB")
    if deep or page.mode != "RGB":
        kind = "of 16 bits" if deep else f"of mode {page.mode}"
        hidden = ", transparent in places" if page.mode == "RGBA" else ""
        raise BadInput(
            f"the page is {kind}{hidden}, and the model takes 8-bit RGB",
            where=where,
            fix="save the pages as RGB images",
        )
    return np.asarray(page)
