"""Image files: decoding them, and what they say of their pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from segclip_deploy.errors import BadInput

__all__ = [
    "FORMATS",
    "StoredImage",
    "check_size",
    "header_of",
    "is_16_bit",
    "loaded",
    "open_image",
    "own_pages",
]

_SUBFILE = 254  # TIFF's NewSubfileType
_COPY_OR_MASK = 0b101  # bit 0: a smaller copy of another page, bit 2: the mask of one
_MOST_PAGES = 100_000

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""What is opened at all: Pillow knows formats that start other programs, or call for one's fonts."""


@dataclass(frozen=True)
class StoredImage:
    """A decoded image, and what its file says of the pixels.

    Attributes:
        image: of Pillow, loaded.
        kind: in words, ``"an RGB image"``.
        raw_mode: how Pillow unpacks the samples, such as ``"L;2"``; empty where it does not say.
    """

    image: Image.Image
    kind: str
    raw_mode: str


_KINDS = {
    "1": "a 1-bit image",
    "L": "a greyscale image",
    "LA": "a greyscale image with alpha",
    "P": "a palette image",
    "RGB": "an RGB image",
    "RGBA": "an RGBA image",
    "CMYK": "a CMYK image",
    "I": "an image of more than 8 bits",
    "I;16": "a 16-bit image",
    "I;16B": "a 16-bit image",
    "F": "a floating-point image",
}


def open_image(path: Path, *, max_megapixels: float | None = None) -> StoredImage:
    """Decode an image file.

    Args:
        path: of one of ``FORMATS``.
        max_megapixels: how large it may be; by default Pillow's bound, 89.5.

    Raises:
        BadInput: no such file, of several pages, too large, truncated, or no image.
    """
    with _told(path):
        if path.stat().st_size == 0 and path.is_file():
            raise BadInput("the file is empty (0 bytes)", where=path)
        if not path.is_file():  # a pipe would be waited for
            raise BadInput("a folder or device, and no file", where=path)
        with header_of(path) as image:
            return loaded(image, path, max_megapixels=max_megapixels)


def loaded(
    image: Image.Image, where: str | Path, *, max_megapixels: float | None = None
) -> StoredImage:
    """Decode an image of Pillow whose header has been read.

    Raises:
        BadInput: of several pages, too large, truncated or damaged.
    """
    with _told(where):
        check_size(image.height, image.width, where, max_megapixels)
        if getattr(image, "is_animated", False):
            _check_pages(image, where)
        kind, raw_mode = _kind(image), _raw_mode(image)
        image.load()
        return StoredImage(image, kind, raw_mode)


@contextmanager
def _told(where: str | Path) -> Iterator[None]:
    """Tell in one line what Pillow cannot read."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise BadInput("not an image that can be read", where=where) from error
    except BadInput:
        raise
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise BadInput(f"damaged or unreadable ({error})", where=where) from error


def header_of(path: Path) -> Image.Image:
    """An image whose header has been read, whatever number of pixels it promises; to be closed.

    ``Image.open`` refuses by a bound that the whole process shares, and this asks no bound.

    Raises:
        UnidentifiedImageError: none of ``FORMATS``.
        Exception: of any type, as Pillow's readers do.
    """
    Image.init()
    with path.open("rb") as file:
        prefix = file.read(16)
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is None or accept(prefix) is True:
            try:
                # A path, so that the image closes its file; Pillow's types know of streams only.
                return factory(str(path), str(path))  # type: ignore[arg-type]
            except (SyntaxError, LookupError, TypeError, struct.error) as error:
                raise UnidentifiedImageError(str(error)) from error
    raise UnidentifiedImageError("of another format")


def check_size(height: int, width: int, where: str | Path, max_megapixels: float | None) -> None:
    """Refuse by its size what would take too much memory.

    Raises:
        BadInput: more pixels than ``max_megapixels``, or without it Pillow's bound.
    """
    usual = Image.MAX_IMAGE_PIXELS  # None: whoever uses this package wants no bound
    bound = usual if max_megapixels is None else int(1e6 * max_megapixels)
    pixels = width * height
    if bound is not None and pixels > bound:
        least = -(-pixels // 10**6)
        raise BadInput(
            f"{width}×{height} is {pixels / 1e6:.4g} megapixels, over the bound of "
            f"{bound / 1e6:.4g}",
            where=where,
            fix=f"cut it into tiles, or allow it: segclip-deploy run … --max-megapixels {least}",
        )


def own_pages(image: Image.Image) -> list[int]:
    """Numbers of the pages that are pictures of their own, not smaller copies or masks of others.

    Of a TIFF, the image is left at its last page.
    """
    count = min(int(getattr(image, "n_frames", 1)), _MOST_PAGES)
    if image.format != "TIFF":  # a PNG may begin with a picture that is not of the film
        return list(range(int(getattr(image, "default_image", False)), count))
    found = []
    for number in range(count):
        image.seek(number)
        if not int(getattr(image, "tag_v2", {}).get(_SUBFILE, 0)) & _COPY_OR_MASK:
            found.append(number)
    return found


def _check_pages(image: Image.Image, where: str | Path) -> None:
    pages = len(own_pages(image))
    image.seek(0)
    if pages > 1:
        raise BadInput(
            f"has {pages} pages, and one is taken here",
            where=where,
            fix="save each page as a file of its own",
        )


def _raw_mode(image: Image.Image) -> str:
    """How the samples are packed, as ``StoredImage.raw_mode``; asked before the pixels are read."""
    for tile in getattr(image, "tile", ()):
        arguments = tile[3]
        return str(arguments[0] if isinstance(arguments, tuple) else arguments)
    return ""


def is_16_bit(image: Image.Image) -> bool:
    """Whether samples have 16 bits; asked before the pixels are read.

    Pillow hands out the high bytes of 16-bit colour as mode RGB; only its decoder knows better.
    """
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _kind(image: Image.Image) -> str:
    if is_16_bit(image):
        return "a 16-bit image"
    return _KINDS.get(image.mode, f"an image of mode {image.mode}")
