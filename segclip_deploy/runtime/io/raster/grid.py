"""Two grids over one raster: its own, and the one the model sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_ENLARGED", "MAX_RATIO", "RasterGrid", "model_size"]

MAX_RATIO = 1.25
"""A raster's ground sample distance may be so many times the model's, or a part of it, and is left alone.
Less than the 1.5 that one calibration pool may span: within it the model has seen both ends."""

MAX_ENLARGED = 4.0
"""A raster so many times coarser than the model's images shows nothing that the model knows."""


@dataclass(frozen=True)
class RasterGrid:
    """Which pixel of the model's grid each of the raster's pixels takes its label from: the nearest.

    Attributes:
        own: (H, W) of the raster.
        model: (H, W) of what the model sees; both cover the same ground.
    """

    own: tuple[int, int]
    model: tuple[int, int]

    @property
    def resampled(self) -> bool:
        """Whether they differ."""
        return self.own != self.model

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """(H,) of the raster: the row of the model's grid under each row's middle."""
        return _nearest(self.own[0], self.model[0])

    @cached_property
    def columns(self) -> NDArray[np.int64]:
        """(W,) of the raster: the column of the model's grid under each column's middle."""
        return _nearest(self.own[1], self.model[1])

    def own_rows(self, top: int, bottom: int) -> tuple[int, int]:
        """The raster's rows (from, to) that take their labels from the model's rows ``top`` to ``bottom``."""
        start, stop = np.searchsorted(self.rows, [top, bottom])
        return int(start), int(stop)

    def to_own(self, labels: NDArray[np.uint8], top: int, left: int = 0) -> NDArray[np.uint8]:
        """Labels (h, w) at a place in the model's grid, as the raster's pixels that lie in them."""
        start, stop = self.own_rows(top, top + labels.shape[0])
        first, last = np.searchsorted(self.columns, [left, left + labels.shape[1]])
        if not self.resampled:
            return labels[: stop - start, : last - first]
        return labels[self.rows[start:stop] - top][:, self.columns[first:last] - left]


def model_size(
    size: tuple[int, int], metres: tuple[float, float] | None, model_metres: float | None
) -> tuple[int, int]:
    """The size (H, W) at which a raster has the model's ground sample distance.

    Args:
        size: of the raster.
        metres: width and height of its pixels, or None.
        model_metres: of the model's, or None.

    Returns:
        ``size`` itself where one is unknown, or both are alike within ``MAX_RATIO``.
    """
    if metres is None or model_metres is None:
        return size
    ratios = (metres[1] / model_metres, metres[0] / model_metres)
    if all(1 / MAX_RATIO <= ratio <= MAX_RATIO for ratio in ratios):
        return size
    height, width = (max(1, round(n * ratio)) for n, ratio in zip(size, ratios, strict=True))
    return height, width


def _nearest(own: int, model: int) -> NDArray[np.int64]:
    return (2 * np.arange(own) + 1) * model // (2 * own)
