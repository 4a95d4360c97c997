"""Segmentation scores in NumPy: confusion, IoU, pixel accuracy, boundary IoU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX

__all__ = ["BoundaryTally", "Confusion", "boundary_mask", "confusion_matrix"]


def confusion_matrix(
    labels: NDArray[np.uint8], ground_truth: NDArray[np.uint8], classes: int
) -> NDArray[np.int64]:
    """Count pixels by (ground truth, label).

    Args:
        labels: (H, W) predicted class indices below ``classes``.
        ground_truth: (H, W) class indices; ``IGNORE_INDEX`` is not counted.
        classes: K.

    Returns:
        (K, K) counts, rows are the ground truth.
    """
    if labels.shape != ground_truth.shape:
        raise ValueError(
            f"labels {labels.shape} and ground truth {ground_truth.shape} differ in size"
        )
    valid = ground_truth != IGNORE_INDEX
    pairs = ground_truth[valid].astype(np.int64) * classes + labels[valid]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix and the scores read from it; add two to pool their pixels.

    Attributes:
        counts: (K, K) pixels, rows are the ground truth, columns the label.
        names: class names, by class index.
    """

    counts: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def empty(cls, names: Sequence[str]) -> Confusion:
        """No pixel seen yet."""
        return cls(np.zeros((len(names), len(names)), dtype=np.int64), tuple(names))

    def __add__(self, other: Confusion) -> Confusion:
        if self.names != other.names:
            raise ValueError("confusions of different classes cannot be added")
        return Confusion(self.counts + other.counts, self.names)

    @property
    def iou(self) -> NDArray[np.float64]:
        """(K,) intersection over union; NaN for a class that is in neither ground truth nor labels."""
        hits = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - np.diag(self.counts)
        return np.divide(hits, union, out=np.full(len(self.names), np.nan), where=union > 0)

    @property
    def class_iou(self) -> dict[str, float | None]:
        """IoU by class name; None for a class that is in neither ground truth nor labels."""
        return {name: _finite(value) for name, value in zip(self.names, self.iou, strict=True)}

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur; NaN if none does."""
        iou = self.iou
        return float(iou[~np.isnan(iou)].mean()) if (~np.isnan(iou)).any() else math.nan

    @property
    def pixel_accuracy(self) -> float:
        """Share of counted pixels whose label is the ground truth; NaN if none was counted."""
        total = self.counts.sum()
        return float(np.diag(self.counts).sum() / total) if total else math.nan

    def to_json(self) -> dict[str, Any]:
        """Scores as JSON; null where a class does not occur."""
        return {
            "miou": _finite(self.miou),
            "pixel_accuracy": _finite(self.pixel_accuracy),
            "iou": self.class_iou,
            "pixels": int(self.counts.sum()),
        }


@dataclass(frozen=True)
class BoundaryTally:
    """Boundary pixels counted for boundary IoU (Cheng et al., CVPR 2021); add two to pool.

    Attributes:
        intersection, union: (K,) pixels of the two inner boundaries.
        names: class names, by class index.
    """

    intersection: NDArray[np.int64]
    union: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def empty(cls, names: Sequence[str]) -> BoundaryTally:
        """No pixel seen yet."""
        zeros = np.zeros(len(names), dtype=np.int64)
        return cls(zeros, zeros, tuple(names))

    @classmethod
    def of(
        cls, labels: NDArray[np.uint8], ground_truth: NDArray[np.uint8], names: Sequence[str]
    ) -> BoundaryTally:
        """Count one image (H, W); the boundary is 2 % of the diagonal wide, as in the paper."""
        width = max(1, round(0.02 * math.hypot(*ground_truth.shape)))
        counted = ground_truth != IGNORE_INDEX
        intersection = np.zeros(len(names), dtype=np.int64)
        union = np.zeros(len(names), dtype=np.int64)
        for index in range(len(names)):
            said = boundary_mask((labels == index) & counted, width)
            true = boundary_mask((ground_truth == index) & counted, width)
            intersection[index] = (said & true).sum()
            union[index] = (said | true).sum()
        return cls(intersection, union, tuple(names))

    def __add__(self, other: BoundaryTally) -> BoundaryTally:
        if self.names != other.names:
            raise ValueError("boundaries of different classes cannot be added")
        return BoundaryTally(
            self.intersection + other.intersection, self.union + other.union, self.names
        )

    @property
    def iou(self) -> NDArray[np.float64]:
        """(K,) boundary IoU; NaN for a class without a boundary."""
        return np.divide(
            self.intersection,
            self.union,
            out=np.full(len(self.names), np.nan),
            where=self.union > 0,
        )

    def to_json(self) -> dict[str, Any]:
        """Boundary IoU by class name; null where a class has no boundary."""
        return {name: _finite(v) for name, v in zip(self.names, self.iou, strict=True)}


def boundary_mask(region: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Pixels of ``region`` (H, W) within ``width`` pixels of its border; the image edge is a border.

    The inner boundary of boundary IoU (Cheng et al., CVPR 2021): the region less its
    erosion by a square of side 2·width + 1, found here with one integral image.
    """
    height, breadth = region.shape
    sums = np.pad(region.astype(np.int64), width).cumsum(0).cumsum(1)
    sums = np.pad(sums, ((1, 0), (1, 0)))
    side = 2 * width + 1
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    eroded = inside[:height, :breadth] == side * side
    return region & ~eroded


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
