"""Images of a dataset with their masks on one page, for people to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segclip_deploy.artifacts.files import write_file
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.runtime.inference.drawing import overlay, png

__all__ = ["mask_sheet"]

_MOST = 24  # images
_SIDE = 256  # of a picture, pixels
_GAP, _LINE = 8, 22
_COLUMNS = 4
_PAPER, _INK = (250, 250, 250), (25, 25, 25)


def mask_sheet(data: Dataset, path: Path) -> int:
    """Draw images, each beside itself under its mask's colours, evenly from all splits.

    Images that cannot be read are left out.

    Returns:
        how many were drawn.

    Raises:
        BadInput: none has a mask that can be read.
    """
    pictures = []
    names = [name for members in data.splits.values() for name in members]
    masked = [
        name for name in names if name in data.index.entries and data.index.entries[name].masks
    ]
    for name in masked[:: max(1, len(masked) // _MOST)][:_MOST]:
        try:
            sample = data.read(name)
        except BadInput:
            continue
        step = max(1, -(-max(sample.ground_truth.shape) // _SIDE))
        pixels = np.ascontiguousarray(sample.frame.pixels[::step, ::step])
        labels = np.ascontiguousarray(sample.ground_truth[::step, ::step])
        drawn = overlay(pixels, labels, data.vocabulary.palette, opacity=0.6)
        pictures.append((name, Image.fromarray(pixels), drawn))
    if not pictures:
        raise BadInput("no image with a mask that can be read", where=data.root)
    rows = -(-len(pictures) // _COLUMNS)
    wide, tall = 2 * _SIDE + _GAP, _SIDE + _LINE
    page = Image.new("RGB", (_COLUMNS * (wide + _GAP) + _GAP, rows * (tall + _GAP) + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for index, (name, image, drawn) in enumerate(pictures):
        row, column = divmod(index, _COLUMNS)
        x, y = _GAP + column * (wide + _GAP), _GAP + row * (tall + _GAP)
        page.paste(image, (x, y + _LINE))
        page.paste(drawn, (x + _SIDE + _GAP, y + _LINE))
        draw.text((x, y + 2), name, _INK, font)
    write_file(path, png(page))
    return len(pictures)
