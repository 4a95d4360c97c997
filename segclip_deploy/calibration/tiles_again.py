"""The tiles of a calibration table, found again among the images that it was measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.calibration.table import CalibrationTable, MeasuredTile
from segclip_deploy.calibration.tiles import Tile, images_of, pixels_sha256, stream_tiles
from segclip_deploy.errors import StaleArtifact, command
from segclip_deploy.runtime.io.idle_options import refuse_idle_options
from segclip_deploy.runtime.io.pictures import Opener, open_windows
from segclip_deploy.runtime.io.raster.source import Reading

__all__ = ["find_again"]


def find_again(
    table: CalibrationTable,
    bundle: Bundle,
    sources: Sequence[Path],
    *,
    layout: str | None = None,
    reading: Reading | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """The pixels (H, W, 3) of the tiles that a table was measured on, in its order.

    An image is known by its name, a tile by its place and by the hash of its pixels. All are found
    before the first is given.

    Args:
        table: measured in this bundle.
        bundle: says how large a tile is.
        sources, layout, reading: as of ``find_tiles``, and as they were given for the table.

    Raises:
        BadInput: an image cannot be read, or ``reading`` changes no image.
        StaleArtifact: a tile is not among these images, or its pixels are others.
    """
    height, width = bundle.input.height, bundle.input.width
    reading = reading or Reading()
    metres = bundle.vocabulary.ground_sample_distance_m
    opener = partial(open_windows, reading=reading, model_metres=metres)
    names = {tile.source for tile in table.tiles}
    paths = [p for source in sources for p in images_of(source, layout) if p.name in names]
    refuse_idle_options(paths, reading)
    found: dict[str, Tile] = {}
    for path in paths:
        wanted = [t for t in table.tiles if t.source == path.name and t.sha256 not in found]
        found |= {tile.sha256: tile for tile in _those_in(path, wanted, opener, height, width)}
    for tile in table.tiles:
        if tile.sha256 not in found:
            raise StaleArtifact(
                f"the tile at row {tile.top}, column {tile.left} of {tile.source}, which the table "
                "was measured on, is not among these images, or its pixels are others",
                where=f"--tiles {' '.join(map(str, sources))}",
                fix="give the images and options of calibrate, or measure anew: "
                + command(
                    "segclip-deploy", "calibrate", bundle.path, "--tiles", "DIR", "-o", "TABLE"
                ),
            )
    again = stream_tiles([found[t.sha256] for t in table.tiles], height, width, opener)
    return (pixels for _, pixels in again)


def _those_in(
    path: Path, wanted: Sequence[MeasuredTile], opener: Opener, height: int, width: int
) -> Iterator[Tile]:
    """Those of the wanted tiles that an image has, with the pixels that were measured."""
    if not wanted:
        return
    with opener(path, height, width) as read:
        for tile in sorted(wanted, key=lambda t: (t.top, t.left)):  # windows are cheap from the top
            inside = tile.top + height <= read.shape[0] and tile.left + width <= read.shape[1]
            if inside and pixels_sha256(read(tile.top, tile.left)[0]) == tile.sha256:
                yield Tile(path, tile.top, tile.left, tile.sha256)
