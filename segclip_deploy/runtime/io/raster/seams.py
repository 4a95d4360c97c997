"""How well windows join: labels along their borders against those of windows that have none there."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.progress import Report, silent
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.inference.windows import LOGIT_STRIDE, Window, cover
from segclip_deploy.runtime.io.raster.gdal import opened
from segclip_deploy.runtime.io.raster.rows import RowReader
from segclip_deploy.runtime.io.raster.segment import read_labels
from segclip_deploy.runtime.io.raster.source import Raster

__all__ = ["SeamScore", "seam_score"]


@dataclass(frozen=True)
class SeamScore:
    """What two tilings say of the same pixels, those within a logit (4 pixels) of a border.

    Attributes:
        pixels: compared.
        differing: of other labels in the other tiling.
    """

    pixels: int
    differing: int

    @property
    def share(self) -> float | None:
        """Share of differing pixels; None where no windows meet."""
        return self.differing / self.pixels if self.pixels else None


def seam_score(
    segmenter: Segmenter,
    raster: Raster,
    labels: Path,
    *,
    report: Report = silent,
) -> SeamScore:
    """Label a raster once more with windows shifted by half a step, and compare along the borders.

    The middle of each shifted window lies where four windows met.

    Args:
        segmenter: as it labelled.
        raster: that it labelled.
        labels: the label map.
        report: called with what is done, rows done and rows in all.

    Raises:
        BadInput: the raster or the label map is damaged.
    """
    grid, shape = raster.grid, segmenter.padded(*raster.grid.model)
    size = (segmenter.spec.height, segmenter.spec.width)
    windows = cover(shape, size, (segmenter.overlap,) * 2)
    tops, near_rows = _line(shape[0], [(w.top, w.keep[0]) for w in windows if w.left == 0])
    lefts, near_columns = _line(shape[1], [(w.left, w.keep[2]) for w in windows if w.top == 0])
    if len(windows) == 1:
        return SeamScore(0, 0)
    inner = (tops[-1] + size[0] - tops[0], lefts[-1] + size[1] - lefts[0])
    columns = slice(*np.searchsorted(grid.columns, [lefts[0], lefts[0] + inner[1]]))
    crossing = near_columns[grid.columns[columns]]
    pixels = differing = 0
    with RowReader(raster, shape, keep=False) as reader, opened(labels) as dataset:

        def read(w: Window) -> NDArray[np.uint8] | None:
            return reader(Window(w.top + tops[0], w.left + lefts[0], w.height, w.width, w.keep))

        for rows in segmenter.rows(inner, read):
            top, bottom = grid.own_rows(rows.top + tops[0], rows.bottom + tops[0])
            if top == bottom:
                continue
            first = read_labels(dataset, top, bottom)[:, columns]
            second = grid.to_own(rows.values, rows.top + tops[0], lefts[0])
            near = near_rows[grid.rows[top:bottom], None] | crossing
            near &= first != IGNORE_INDEX
            pixels += int(near.sum())
            differing += int((near & (first != second)).sum())
            report("comparing seams", bottom, grid.own[0])
    return SeamScore(pixels, differing)


def _line(length: int, spans: list[tuple[int, int]]) -> tuple[list[int], NDArray[np.bool_]]:
    """Along one axis: where shifted windows begin, and which of ``length`` pixels are near a border.

    Args:
        length: of the axis.
        spans: (start, first kept pixel) of the windows.
    """
    starts = [start for start, _ in spans]
    near = np.zeros(length, np.bool_)
    for _, border in spans[1:]:
        near[border - LOGIT_STRIDE : border + LOGIT_STRIDE] = True
    between = [(a + b) // 2 // LOGIT_STRIDE * LOGIT_STRIDE for a, b in pairwise(starts)]
    return between or starts, near
