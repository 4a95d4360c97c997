"""Frames: reading an image file, and the project's only pre-processing."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from segclip_deploy.errors import BadInput

__all__ = ["IMAGE_SUFFIXES", "Frame", "list_images", "prepare", "read_frame", "read_mask"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


@dataclass(frozen=True)
class Frame:
    """One image.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, rows from the top.
        source: the file it came from.

    Raises:
        BadInput: pixels of another shape or type, or none.
    """

    pixels: NDArray[np.uint8]
    source: str

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise BadInput(
                f"frame is {pixels.dtype} {pixels.shape}, not uint8 (H, W, 3)", where=self.source
            )


def list_images(source: Path) -> list[Path]:
    """The images of a folder (not of its subfolders), sorted by name; or the one file given.

    Raises:
        BadInput: nothing there, or a folder without images.
    """
    if source.is_dir():
        found = sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise BadInput(
                f"no images in this folder (looked for {' '.join(IMAGE_SUFFIXES)})", where=source
            )
        return found
    if not source.exists():
        raise BadInput("no such file or folder", where=source)
    return [source]


def read_frame(path: str | Path) -> Frame:
    """Read an 8-bit RGB image as it is stored (an EXIF orientation is not applied).

    Raises:
        BadInput: unreadable, truncated, or not 8-bit RGB.
    """
    path = Path(path)
    image, kind = _open(path)
    if kind != "an RGB image":
        raise BadInput(
            f"{kind}, and the model takes 8-bit RGB",
            where=path,
            fix=f'convert it knowingly, e.g. python -c "from PIL import Image; '
            f"Image.open('{path.name}').convert('RGB').save('rgb_{path.stem}.png')\"",
        )
    return Frame(np.asarray(image), str(path))


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read a mask's values (H, W); a palette image yields its indices, not its colours.

    Raises:
        BadInput: unreadable, truncated, or not single-channel 8-bit.
    """
    image, kind = _open(path)
    if kind not in ("a palette image", "a greyscale image"):
        raise BadInput(
            f"{kind}, and a mask is one channel of class values",
            where=path,
            fix="write masks as 8-bit greyscale or palette PNG",
        )
    return np.asarray(image)


def prepare(frame: Frame, height: int, width: int) -> NDArray[np.uint8]:
    """Bring a frame of (H, W) pixels to at least ``height`` × ``width`` by reflection, below and to the right.

    Nothing is stretched, and normalisation is the graph's. Training's evaluation,
    calibration and flight all come through here.

    Returns:
        (max(H, height), max(W, width), 3) uint8, contiguous.
    """
    pixels = frame.pixels
    below = max(0, height - pixels.shape[0])
    right = max(0, width - pixels.shape[1])
    if below or right:
        pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="reflect")
    return np.ascontiguousarray(pixels)


FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""What is opened at all: Pillow knows formats that start other programs, or call for one's fonts."""

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


def _open(path: Path) -> tuple[Image.Image, str]:
    """A decoded image, and what kind it is."""
    try:
        if path.stat().st_size == 0 and path.is_file():
            raise BadInput("the file is empty (0 bytes)", where=path)
        if not path.is_file():  # a pipe would be waited for
            raise BadInput("a folder or device, and no file", where=path)
        with warnings.catch_warnings():
            # A header that promises too many pixels is refused, not warned about.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                kind = _kind(image)
                image.load()
                return image, kind
    except UnidentifiedImageError as error:
        raise BadInput("not an image that can be read", where=path) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInput(
            f"over {Image.MAX_IMAGE_PIXELS} pixels", where=path, fix="cut it into tiles"
        ) from error
    except BadInput:
        raise
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise BadInput(f"damaged or unreadable ({error})", where=path) from error


def _kind(image: Image.Image) -> str:
    # Pillow hands out the high bytes of 16-bit colour as mode RGB; only its decoder knows better.
    decoders = [tile[3] for tile in getattr(image, "tile", ())]
    if any(";16" in str(arguments) for arguments in decoders):
        return "a 16-bit image"
    return _KINDS.get(image.mode, f"an image of mode {image.mode}")
