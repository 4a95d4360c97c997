"""How well some tiles of a pool stand for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.calibration.table import ClassShares, CoverageRecord, DescriptorSpan
from segclip_deploy.calibration.tiles import TilePool
from segclip_deploy.runtime.inference.tile_descriptors import DESCRIPTORS

__all__ = ["ClassShare", "Coverage", "Span", "distances", "measure_coverage"]

_BINS = 20
_DRAWS = 20


@dataclass(frozen=True)
class ClassShare:
    """The share of pixels a class is predicted on, 0 to 1, in the pool and in the selection."""

    index: int
    pool: float
    chosen: float


@dataclass(frozen=True)
class Span:
    """A descriptor in the pool, and how much of its range the selection reaches.

    Attributes:
        name: one of ``tile_descriptors.DESCRIPTORS``.
        low, high: 1st and 99th percentile of the pool.
        covered: of the twentieths of that range which hold tiles, the share that holds chosen ones.
    """

    name: str
    low: float
    high: float
    covered: float


@dataclass(frozen=True)
class Coverage:
    """How well a selection stands for its pool.

    Attributes:
        images, pool, chosen: counts of images, of their usable tiles, and of the chosen ones.
        constant, invalid, repeated: tiles left out of the pool.
        classes: every class predicted somewhere; empty without a labeller.
        spans: one for each descriptor.
        radius: largest distance of a tile of the pool from its nearest chosen one, where each
            descriptor and class share counts in standard deviations.
        random_radius: the same for random selections of this size, the median of 20.
    """

    images: int
    pool: int
    chosen: int
    constant: int
    invalid: int
    repeated: int
    classes: tuple[ClassShare, ...]
    spans: tuple[Span, ...]
    radius: float
    random_radius: float

    def record(self, class_names: Sequence[str]) -> CoverageRecord:
        """As a calibration table keeps it, classes by name."""
        return CoverageRecord(
            images=self.images,
            pool=self.pool,
            chosen=self.chosen,
            constant=self.constant,
            invalid=self.invalid,
            repeated=self.repeated,
            classes={
                class_names[share.index]: ClassShares(
                    pool=round(share.pool, 6), chosen=round(share.chosen, 6)
                )
                for share in self.classes
            },
            descriptors={
                span.name: DescriptorSpan(
                    p1=round(span.low, 3), p99=round(span.high, 3), covered=round(span.covered, 4)
                )
                for span in self.spans
            },
            radius=round(self.radius, 4),
            random_radius=round(self.random_radius, 4),
        )


def measure_coverage(
    pool: TilePool,
    points: NDArray[np.float64],
    shares: NDArray[np.float64],
    chosen: Sequence[int],
) -> Coverage:
    """Compare the rows ``chosen`` of a pool with all of it.

    Args:
        pool: N tiles.
        points: (N, D), where distances are taken.
        shares: (N, K) share of each tile's pixels by class.
        chosen: distinct rows.
    """
    rng = np.random.default_rng(0)
    draws = [rng.permutation(len(points))[: len(chosen)] for _ in range(_DRAWS)]
    pooled, selected = shares.mean(axis=0), shares[chosen].mean(axis=0)
    return Coverage(
        images=pool.images,
        pool=len(pool.tiles),
        chosen=len(chosen),
        constant=pool.constant,
        invalid=pool.invalid,
        repeated=pool.repeated,
        classes=tuple(
            ClassShare(int(k), float(pooled[k]), float(selected[k])) for k in np.flatnonzero(pooled)
        ),
        spans=tuple(
            _span(name, column, chosen)
            for name, column in zip(DESCRIPTORS, pool.descriptors.T, strict=True)
        ),
        radius=float(distances(points, chosen).max()),
        random_radius=float(np.median([distances(points, d.tolist()).max() for d in draws])),
    )


def distances(points: NDArray[np.float64], chosen: Sequence[int]) -> NDArray[np.float64]:
    """Each row's distance (N,) from its nearest chosen row."""
    nearest = np.full(len(points), np.inf)
    for index in chosen:
        np.minimum(nearest, np.linalg.norm(points - points[index], axis=1), out=nearest)
    return nearest


def _span(name: str, values: NDArray[np.float64], chosen: Sequence[int]) -> Span:
    low, high = (float(value) for value in np.percentile(values, (1, 99)))
    cells = np.digitize(values, np.linspace(low, high, _BINS + 1)[1:-1])
    cells[(values < low) | (values > high)] = -1
    held = set(cells.tolist()) - {-1}
    reached = set(cells[chosen].tolist()) - {-1}
    return Span(name, low, high, len(reached) / len(held))
