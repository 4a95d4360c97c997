"""The choice: few tiles that look as different as the whole pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.appearance import Appearance
from segclip_deploy.calibration.coverage import Coverage, distances, measure_coverage
from segclip_deploy.calibration.likeness import fit_appearance
from segclip_deploy.calibration.tiles import MIN_TILES, Tile, TilePool, stream_tiles
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.pictures import Opener, open_windows

__all__ = ["TileSet", "choose_rows", "farthest_first", "select_tiles", "standardised"]

_COMMON = 0.001  # share of the pool's pixels from which on a class must be in the selection
_RICHEST = 2  # tiles of each such class


@dataclass(frozen=True)
class TileSet:
    """Chosen tiles, and their pixels on demand.

    Attributes:
        tiles: in the pool's order, so that those of an image follow each other.
        height, width: of every tile, pixels.
        coverage: how well they stand for the pool.
        dominant: the class with most pixels in each tile; None without a labeller.
        opener: how their images are read.
        appearance: of the pool; None where all its tiles are of one image.
    """

    tiles: tuple[Tile, ...]
    height: int
    width: int
    coverage: Coverage
    dominant: tuple[int, ...] | None = None
    opener: Opener = open_windows
    appearance: Appearance | None = None

    def __len__(self) -> int:
        return len(self.tiles)

    def __iter__(self) -> Iterator[tuple[Tile, NDArray[np.uint8]]]:
        """Every tile and its pixels, decoding each image once and holding one at a time.

        Raises:
            BadInput: an image is gone or has changed.
        """
        return stream_tiles(self.tiles, self.height, self.width, self.opener)

    def read(self, tile: Tile) -> NDArray[np.uint8]:
        """The pixels (H, W, 3) of one tile; iterate to read them all.

        Raises:
            BadInput: its image is gone or has changed.
        """
        return next(stream_tiles([tile], self.height, self.width, self.opener))[1]


def select_tiles(
    pool: TilePool,
    n: int,
    *,
    labels: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> TileSet:
    """Choose tiles that cover the pool, by farthest-first traversal of their descriptors.

    It starts from the tile nearest the pool's centre. With a labeller, class shares are
    descriptors too, and the two tiles richest in each class that has at least 0.1 % of the
    pool's pixels are chosen before all others. Deterministic: ties go to the earlier tile.

    Args:
        pool: from ``find_tiles``.
        n: how many; a smaller pool is taken whole.
        labels: a tile (H, W, 3) to its class indices (H, W).
        report: called with (tiles labelled, tiles in all), where there is a labeller.

    Raises:
        BadInput: ``n`` is below ``MIN_TILES``, or too small to hold the tiles of each class.
    """
    if n < MIN_TILES:
        raise BadInput(
            f"{n} tiles are too few to calibrate on", where="--select", fix=f"at least {MIN_TILES}"
        )
    n = min(n, len(pool.tiles))
    shares = np.empty((len(pool.tiles), 0))
    if labels:
        shares = _class_shares(pool, labels, report)
    points = standardised(np.hstack([pool.descriptors, shares]))
    chosen = sorted(choose_rows(points, shares, n))
    return TileSet(
        tiles=tuple(pool.tiles[row] for row in chosen),
        height=pool.height,
        width=pool.width,
        coverage=measure_coverage(pool, points, shares, chosen),
        dominant=tuple(shares[chosen].argmax(axis=1).tolist()) if labels else None,
        opener=pool.opener,
        appearance=fit_appearance(pool),
    )


def choose_rows(points: NDArray[np.float64], shares: NDArray[np.float64], n: int) -> list[int]:
    """The rows of ``n`` tiles, first the centre and those rich in each class.

    Args:
        points: (N, D) standardised descriptors, N ≥ n.
        shares: (N, K) share of each tile's pixels by class; K may be 0.
        n: how many.

    Raises:
        BadInput: ``n`` is too small to hold the tiles of each class.
    """
    centre = int(np.argmin(np.linalg.norm(points, axis=1)))
    seeds = [*dict.fromkeys([centre, *_richest(shares)])]
    if len(seeds) > n:
        raise BadInput(
            f"{n} tiles cannot hold the {_RICHEST} richest of every class found",
            where="--select",
            fix=f"at least {len(seeds)}",
        )
    return farthest_first(points, n, seeds)


def farthest_first(points: NDArray[np.float64], n: int, seeds: Sequence[int]) -> list[int]:
    """Extend ``seeds`` to ``n`` distinct rows, each time by the row farthest from those chosen.

    From one seed, no row ends up farther from its nearest chosen one than twice the best that
    n centres can do (Gonzalez 1985, https://doi.org/10.1016/0304-3975(85)90224-5).

    Args:
        points: (N, D), N ≥ n.
        n: how many rows.
        seeds: distinct rows to start from, 1 to n.
    """
    chosen = list(seeds)
    nearest = distances(points, chosen)
    while len(chosen) < n:
        nearest[chosen] = -1  # a row equal to a chosen one may still come, the chosen one may not
        farthest = int(np.argmax(nearest))
        nearest = np.minimum(nearest, distances(points, [farthest]))
        chosen.append(farthest)
    return chosen


def standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns of mean 0 and deviation 1, or of zeros where all rows are equal."""
    deviation = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1)


def _class_shares(
    pool: TilePool,
    labels: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
    report: Callable[[int, int], None],
) -> NDArray[np.float64]:
    """(N, K) share of each tile's pixels by class, K the largest class found + 1."""
    counts = np.zeros((len(pool.tiles), 256))
    stream = stream_tiles(pool.tiles, pool.height, pool.width, pool.opener)
    for row, (_, pixels) in enumerate(stream):
        counts[row] = np.bincount(labels(pixels).ravel(), minlength=256)
        report(row + 1, len(pool.tiles))
    largest = np.flatnonzero(counts.any(axis=0))[-1]
    return counts[:, : largest + 1] / (pool.height * pool.width)


def _richest(shares: NDArray[np.float64]) -> list[int]:
    """The tiles with most of each class that is common enough; fewer where fewer have any."""
    rows: list[int] = []
    for column in shares.T:
        if column.mean() >= _COMMON:
            order = np.argsort(-column, kind="stable")[:_RICHEST]
            rows += [int(row) for row in order if column[row] > 0]
    return rows
