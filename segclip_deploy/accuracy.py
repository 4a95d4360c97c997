"""Accuracy of a segmenter on a dataset, by the same path that flies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from segclip_deploy.dataset import Sample
from segclip_deploy.metrics import BoundaryTally, Confusion, confusion_matrix
from segclip_deploy.runtime.segmenter import Segmenter

__all__ = ["Accuracy", "score"]


@dataclass(frozen=True)
class Accuracy:
    """Scores over some images.

    Attributes:
        confusion: pooled over all pixels.
        boundary: pooled over all boundary pixels.
        images: names of the images, in order.
    """

    confusion: Confusion
    boundary: BoundaryTally
    images: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Scores as JSON."""
        return {
            **self.confusion.to_json(),
            "boundary_iou": self.boundary.to_json(),
            "images": list(self.images),
        }


def score(segmenter: Segmenter, samples: Iterable[Sample]) -> Accuracy:
    """Segment every sample and compare it with its truth."""
    names = segmenter.vocabulary.names
    confusion, boundary = Confusion.empty(names), BoundaryTally.empty(names)
    images = []
    for sample in samples:
        labels = segmenter.segment(sample.frame).labels
        confusion += Confusion(confusion_matrix(labels, sample.truth, len(names)), names)
        boundary += BoundaryTally.of(labels, sample.truth, names)
        images.append(sample.name)
    return Accuracy(confusion, boundary, tuple(images))
