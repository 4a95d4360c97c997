"""What a Segmenter takes for an image: a file, an array, a picture of Pillow, a Frame."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.errors import BadInput, command
from segclip_deploy.runtime.formats.address import display_name, is_address
from segclip_deploy.runtime.formats.georeference import find_georeference
from segclip_deploy.runtime.formats.image_file import loaded
from segclip_deploy.runtime.formats.kinds import Kind, kind_of
from segclip_deploy.runtime.inference.frame import Frame, read_frame, rgb_frame

__all__ = ["ImageLike", "as_frame"]

ImageLike: TypeAlias = "str | Path | NDArray[np.uint8] | Image.Image | Frame"
"""A path; (H, W, 3) uint8 RGB; a picture of Pillow; or a frame that has been made of one."""


def as_frame(image: ImageLike) -> Frame:
    """An image as a frame; all ways give the same pixels, and refuse the same.

    Args:
        image: the path of an image file; (H, W, 3) uint8 RGB, rows from the top, which is not
            copied; a picture of Pillow, in mode RGB; or a frame, which is returned. No EXIF
            orientation is applied. Of 16-bit colour that Pillow has loaded already, only the high
            bytes are left, and nothing tells.

    Raises:
        BadInput: none of these; what ``read_frame`` refuses; a video, a camera or a georeferenced
            raster, which ``run`` labels.
    """
    if isinstance(image, Frame):
        return image
    if isinstance(image, np.ndarray):
        return Frame(image, "an array")
    if isinstance(image, Image.Image):
        where = str(getattr(image, "filename", "")) or "a PIL image"
        return rgb_frame(loaded(image, where), where)
    if isinstance(image, (str, os.PathLike)):
        _refuse_all_but_pictures(os.fspath(image))
        return read_frame(image)
    kind: Any = type(image)
    raise BadInput(
        f"no image: {kind.__module__}.{kind.__qualname__}",
        fix="give a path, an (H, W, 3) uint8 RGB array, a PIL image or a Frame",
    )


def _refuse_all_but_pictures(source: str) -> None:
    """Refuse what ``run`` labels in another way than a picture."""
    path = Path(source)
    if is_address(source) or path.is_char_device():
        what, shown = "a camera or a file on a server", display_name(source)
        place: str | Path = shown
    elif path.is_dir():
        what, shown, place = "a folder", source, path
    elif kind_of(path) is Kind.FILM:
        what, shown, place = "a video", source, path
    elif (found := find_georeference(path)) is not None:
        signs = f" ({', '.join(found.signs)})" if found.signs else ""
        what, shown, place = f"a georeferenced raster{signs}", source, path
    else:
        return
    raise BadInput(
        f"{what}, and one picture is taken here",
        where=shown,
        fix=command("segclip-deploy", "run", "ENGINE", place, "-o", "OUT"),
    )
