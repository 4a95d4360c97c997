"""Reading a raster for a row of windows at a time, ahead of who needs it."""

from __future__ import annotations

import math
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.runtime.inference.frame import Frame, prepare
from segclip_deploy.runtime.inference.windows import Window
from segclip_deploy.runtime.io.raster.pixels import read_pixels
from segclip_deploy.runtime.io.raster.source import Raster, opened_raster

__all__ = ["RowReader"]

_ROWS = 256
"""Rows read at once, or as many as the file's blocks have. Always the same ones, because resampling
gives pixels at the border of what is read another rounding."""

_PLANE = "EPSG:3857"  # any in metres: pixels are brought to pixels, nothing is projected
_ORIGIN = 1000  # GDAL takes a transformation with the origin at 0 and pixels of 1 for none

T = TypeVar("T")


@dataclass(frozen=True)
class _Chunk:
    """Rows of the model's grid, and whether the raster's own pixels in them are valid."""

    pixels: NDArray[np.uint8]  # (h, W, 3)
    valid: NDArray[np.bool_]  # (h', W')


class RowReader:
    """Hands out windows of a raster in the order of their rows, and keeps no more rows than they need.

    Args:
        raster: what to read.
        shape: (H, W) of the model's grid, padded by reflection.
        keep: whether ``take_valid`` will be called, for every row that windows are read of.
    """

    def __init__(self, raster: Raster, shape: tuple[int, int], *, keep: bool = True) -> None:
        self._raster, self._shape, self._keep = raster, shape, keep
        self._chunks: Generator[_Chunk, None, None] | None = None
        self._top = -1  # of the strip

    def __enter__(self) -> RowReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._chunks is not None:
            self._chunks.close()

    def __call__(self, window: Window) -> NDArray[np.uint8] | None:
        """The pixels (h, w, 3) of a window; None where no pixel of the raster's own is valid."""
        if window.top != self._top:
            self._advance(window)
        grid, right = self._raster.grid, window.left + window.width
        first, last = np.searchsorted(grid.columns, [window.left, right])
        if not self._covered[first:last].any():
            return None
        return self._strip[:, window.left : right]

    def take_valid(self, top: int, bottom: int) -> NDArray[np.bool_]:
        """Which of the raster's own pixels are valid (h, W), of rows that windows have been read of."""
        valid = self._valid.get(top, bottom)
        self._valid.drop(bottom)
        return valid

    def _advance(self, window: Window) -> None:
        """Bring the strip of a row of windows together."""
        grid, bottom = (
            self._raster.grid,
            min(window.top + window.height, self._raster.grid.model[0]),
        )
        chunks = self._chunks or self._start(window.top)
        self._pixels.drop(window.top)
        while self._pixels.bottom < bottom:
            chunk = next(chunks)
            self._pixels.append(chunk.pixels)
            self._valid.append(chunk.valid)
        rows = Frame(self._pixels.get(window.top, bottom), str(self._raster.path))
        self._strip = prepare(rows, window.height, self._shape[1])
        start, stop = grid.own_rows(window.top, bottom)
        if not self._keep:
            self._valid.drop(start)
        valid = self._valid.get(max(start, self._valid.top), stop)
        self._covered = np.logical_or.reduce(valid, axis=0)  # by column
        self._top = window.top

    def _start(self, top: int) -> Generator[_Chunk, None, None]:
        raster, step = self._raster, _chunk_rows(self._raster)
        first = top // step * step
        self._chunks = _ahead(_read_chunks(raster, first, step))
        start, _ = raster.grid.own_rows(first, first)
        self._pixels = _Rolling(first, np.empty((0, raster.grid.model[1], 3), np.uint8))
        self._valid = _Rolling(start, np.empty((0, raster.grid.own[1]), np.bool_))
        return self._chunks


class _Rolling:
    """Rows that are appended below and dropped above."""

    def __init__(self, top: int, none: NDArray[Any]) -> None:
        self.top, self._parts = top, [none]

    @property
    def bottom(self) -> int:
        return self.top + sum(map(len, self._parts))

    def append(self, rows: NDArray[Any]) -> None:
        self._parts.append(rows)

    def get(self, top: int, bottom: int) -> NDArray[Any]:
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0][top - self.top : bottom - self.top]

    def drop(self, top: int) -> None:
        top = min(top, self.bottom)
        if top > self.top:
            self._parts = [self.get(top, self.bottom)]
            self.top = top


def _chunk_rows(raster: Raster) -> int:
    if raster.grid.resampled:
        return _ROWS
    with opened_raster(raster) as dataset:
        blocks = [dataset.block_shapes[band - 1][0] for band in raster.bands]
    return min(max(*blocks, _ROWS), 4 * _ROWS)


def _read_chunks(raster: Raster, top: int, step: int) -> Generator[_Chunk, None, None]:
    """All chunks from model row ``top`` on; opened, read and closed in the thread that iterates."""
    height, width = raster.grid.model[0], raster.grid.own[1]
    with opened_raster(raster) as dataset:
        for start in range(top, height, step):
            stop = min(start + step, height)
            own = raster.grid.own_rows(start, stop)
            if raster.grid.resampled:
                yield _resampled(dataset, raster, (start, stop), own)
            else:
                yield _Chunk(*read_pixels(dataset, raster, (own, (0, width))))


def _resampled(dataset: Any, raster: Raster, rows: tuple[int, int], own: tuple[int, int]) -> _Chunk:
    """Rows of the model's grid; enlarged bilinearly, made smaller with a wider kernel.

    Pixels that are not real take no part: GDAL is given the decision as an alpha band, and its
    own idea of the file's nodata and alpha is not asked.

    Args:
        dataset: on the raster's own grid.
        raster: that it is of.
        rows: of the model's grid, (from, to).
        own: the raster's rows that take their labels from them, (from, to).
    """
    warp = require("rasterio.warp", why="reading GeoTIFF")
    enums = require("rasterio.enums", why="reading GeoTIFF")
    affine = type(raster.transform)
    (height, width), (model_height, columns) = raster.grid.own, raster.grid.model
    down, across = height / model_height, width / columns
    reach = 2 * math.ceil(max(down, 1)) + 2  # of the kernel, with room
    first = max(0, min(own[0], math.floor(rows[0] * down) - reach))
    last = min(height, max(own[1], math.ceil(rows[1] * down) + reach))
    pixels, valid = read_pixels(dataset, raster, ((first, last), (0, width)))
    bands = pixels.transpose(2, 0, 1)
    hidden = {} if valid.all() else {"src_alpha": 4, "dst_alpha": 4}
    if hidden:
        bands = np.concatenate([bands, valid[None] * np.uint8(255)])
    made = np.zeros((len(bands), rows[1] - rows[0], columns), np.uint8)
    warp.reproject(
        np.ascontiguousarray(bands),
        made,
        src_crs=_PLANE,
        dst_crs=_PLANE,
        src_transform=affine(1, 0, _ORIGIN, 0, -1, _ORIGIN - first),
        dst_transform=affine(across, 0, _ORIGIN, 0, -down, _ORIGIN - rows[0] * down),
        resampling=enums.Resampling.bilinear,
        **hidden,
    )
    seen = np.ascontiguousarray(made[:3].transpose(1, 2, 0))
    return _Chunk(seen, valid[own[0] - first : own[1] - first])


def _ahead(items: Generator[T, None, None]) -> Generator[T, None, None]:
    """The same items, each made in a thread while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        try:
            following = pool.submit(next, items, None)
            while (item := following.result()) is not None:
                following = pool.submit(next, items, None)
                yield item
        finally:
            pool.submit(items.close)
