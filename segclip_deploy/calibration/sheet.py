"""The chosen tiles on one page, for people to look at before they trust them."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.calibration.selection import TileSet

__all__ = ["contact_sheet"]

_WIDTH = 1600  # of the page, about
_SIDES = (80, 320)  # least and largest width of a thumbnail
_GAP = 8
_FRAME = 6
_LINE = 36  # height of the heading and of the legend
_PAPER, _INK = (250, 250, 250), (25, 25, 25)


def contact_sheet(tileset: TileSet, path: Path, *, vocabulary: Vocabulary | None = None) -> None:
    """Write thumbnails of all tiles, numbered from 0 in their order, as one PNG.

    Where the tiles were labelled and a vocabulary is given, each has a frame in the colour of
    its dominant class, and a legend counts the tiles of each.

    Raises:
        BadInput: a tile's image is gone or has changed.
    """
    columns = min(len(tileset), max(4, math.isqrt(len(tileset) - 1) + 1))
    wide = min(_SIDES[1], max(_SIDES[0], _WIDTH // columns - _GAP))
    tall = max(1, round(wide * tileset.height / tileset.width))
    rows = -(-len(tileset) // columns)
    dominant = tileset.dominant if vocabulary else None
    top = _LINE + (_LINE if dominant else 0)
    page = Image.new(
        "RGB",
        (columns * (wide + _GAP) + _GAP, top + rows * (tall + _GAP)),
        _PAPER,
    )
    draw = ImageDraw.Draw(page)
    coverage = tileset.coverage
    heading = (
        f"{coverage.chosen} of {coverage.pool} tiles, {tileset.width}x{tileset.height} pixels, "
        f"from {len({tile.source for tile in tileset.tiles})} of {coverage.images} images"
    )
    draw.text((_GAP, _LINE // 2), heading, _INK, ImageFont.load_default(20), anchor="lm")
    if dominant and vocabulary:
        _legend(draw, dominant, vocabulary)

    number = ImageFont.load_default(max(12, wide // 12))
    for index, (_, pixels) in enumerate(tileset):
        row, column = divmod(index, columns)
        x, y = _GAP + column * (wide + _GAP), top + row * (tall + _GAP)
        colour = vocabulary.classes[dominant[index]].colour if dominant and vocabulary else None
        edge = _FRAME if colour else 0
        if colour:
            draw.rectangle((x, y, x + wide - 1, y + tall - 1), colour)
        inner = (max(1, wide - 2 * edge), max(1, tall - 2 * edge))
        page.paste(
            Image.fromarray(pixels).resize(inner, Image.Resampling.LANCZOS), (x + edge, y + edge)
        )
        corner = (x + edge + 3, y + edge + 3)
        _, _, right, lower = draw.textbbox(corner, str(index), number)
        draw.rectangle((x + edge, y + edge, right + 3, lower + 3), _INK)
        draw.text(corner, str(index), "white", number)
    with replace_file(path) as temporary:
        page.save(temporary, format="PNG")


def _legend(draw: ImageDraw.ImageDraw, dominant: tuple[int, ...], vocabulary: Vocabulary) -> None:
    """A swatch, a name and a count for each class that dominates a tile."""
    font = ImageFont.load_default(16)
    x, middle, half = _GAP, _LINE + _LINE // 2 - _GAP // 2, 8
    for index in sorted(set(dominant)):
        entry = vocabulary.classes[index]
        draw.rectangle((x, middle - half, x + 2 * half, middle + half), entry.colour, outline=_INK)
        x += 2 * half + 6
        text = f"{entry.name} {dominant.count(index)}"
        draw.text((x, middle), text, _INK, font, anchor="lm")
        x += math.ceil(draw.textlength(text, font)) + 24
