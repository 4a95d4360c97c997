"""Frames: reading an image file, and the project's only pre-processing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.formats.image_file import StoredImage, open_image
from segclip_deploy.runtime.formats.kinds import IMAGE_SUFFIXES

__all__ = [
    "Frame",
    "is_image_name",
    "list_images",
    "prepare",
    "read_frame",
    "rgb_frame",
]


@dataclass(frozen=True)
class Frame:
    """One image.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, rows from the top.
        source: the file it came from.
        valid: (H, W), False where there is no ground: transparent, or no data; None: everywhere.

    Raises:
        BadInput: pixels or ``valid`` of another shape or type, or none.

    Examples:
        >>> import numpy as np
        >>> from segclip_deploy import Frame
        >>> red = np.full((480, 640, 3), (255, 0, 0), np.uint8)
        >>> Frame(red, "camera 1").source
        'camera 1'
    """

    pixels: NDArray[np.uint8]
    source: str
    valid: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise BadInput(
                f"frame is {pixels.dtype} {pixels.shape}, not uint8 (H, W, 3)",
                where=self.source,
                fix="give rows, columns, then red, green and blue, 0 to 255 each",
            )
        if self.valid is not None and self.valid.shape != pixels.shape[:2]:
            raise BadInput(
                f"frame is {pixels.shape[:2]} and its valid pixels {self.valid.shape}",
                where=self.source,
            )


def is_image_name(path: Path) -> bool:
    """Whether a file in a folder is taken for an image.

    Hidden ones are not: macOS writes ``._a.jpg`` beside ``a.jpg`` on foreign disks.
    """
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def list_images(source: Path) -> list[Path]:
    """The images of a folder (not of its subfolders), sorted by name; or the one file given.

    Raises:
        BadInput: nothing there, or a folder without images.
    """
    if source.is_dir():
        found = sorted(filter(is_image_name, source.iterdir()))
        if not found:
            raise BadInput(
                f"no images in this folder (looked for {' '.join(IMAGE_SUFFIXES)})", where=source
            )
        return found
    if not source.exists():
        raise BadInput("no such file or folder", where=source)
    return [source]


def read_frame(path: str | Path, *, max_megapixels: float | None = None) -> Frame:
    """Read an 8-bit RGB image as it is stored (an EXIF orientation is not applied).

    Args:
        path: of a BMP, JPEG, PNG, TIFF or WebP file.
        max_megapixels: how large it may be; by default Pillow's bound, 89.5.

    Raises:
        BadInput: unreadable, truncated, or not 8-bit RGB.

    Examples:
        >>> from segclip_deploy import read_frame
        >>> read_frame("tile.jpg").pixels.shape
        (838, 859, 3)
    """
    path = Path(path)
    return rgb_frame(open_image(path, max_megapixels=max_megapixels), path)


def rgb_frame(stored: StoredImage, where: str | Path) -> Frame:
    """The frame of an image that is 8-bit RGB.

    Raises:
        BadInput: it is not.
    """
    if stored.kind != "an RGB image":
        raise BadInput(
            f"{stored.kind}, and the model takes 8-bit RGB",
            where=where,
            fix="convert it to 8-bit RGB; run, evaluate and calibrate read it with --bands and --scale",
        )
    return Frame(np.asarray(stored.image), str(where))


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
