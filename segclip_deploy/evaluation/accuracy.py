"""Accuracy of a segmenter on a dataset, by the same path that flies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.checkpoint_record import Scores
from segclip_deploy.artifacts.plan import Drop
from segclip_deploy.evaluation.confidence import ConfidenceMeter
from segclip_deploy.evaluation.dataset import Sample
from segclip_deploy.evaluation.metrics import BoundaryTally, Confusion, confusion_matrix
from segclip_deploy.evaluation.protocols import JOINED, Protocol
from segclip_deploy.runtime.inference.segmenter import Segmenter

__all__ = ["Accuracy", "miou_drop", "score"]

_RESAMPLES = 2000


@dataclass(frozen=True)
class Accuracy:
    """Scores over some images.

    Attributes:
        confusion: pooled over all pixels.
        boundary: pooled over all boundary pixels.
        images: names of the images, in order.
        by_image: the confusion of each.
    """

    confusion: Confusion
    boundary: BoundaryTally
    images: tuple[str, ...]
    by_image: tuple[Confusion, ...]

    def scores(self) -> Scores:
        """As a record."""
        return Scores(
            **self.confusion.to_json(), boundary_iou=self.boundary.to_json(), images=self.images
        )

    def to_json(self) -> dict[str, Any]:
        """Scores as JSON."""
        return self.scores().to_json()


def score(
    segmenter: Segmenter,
    samples: Iterable[Sample],
    protocol: Protocol = JOINED,
    *,
    confidence: ConfidenceMeter | None = None,
) -> Accuracy:
    """Segment every sample and compare it with its ground truth, as a protocol says.

    Args:
        segmenter: an engine.
        samples: images and ground truth.
        protocol: what is labelled and scored by itself.
        confidence: measures the engine's logits on the way, if it outputs any.
    """
    names = segmenter.vocabulary.names
    boundary = BoundaryTally.empty(names)
    images, by_image = [], []
    for sample in samples:
        confusion = Confusion.empty(names)
        for part in protocol.parts(sample):
            on_logits = confidence.reads(part.ground_truth) if confidence else None
            labels = segmenter.segment(part.frame, on_logits=on_logits).labels
            counts = confusion_matrix(labels, part.ground_truth, len(names))
            confusion += Confusion(counts, names)
            boundary += BoundaryTally.of(labels, part.ground_truth, names)
        by_image.append(confusion)
        images.append(sample.name)
    pooled = sum(by_image, Confusion.empty(names))
    return Accuracy(pooled, boundary, tuple(images), tuple(by_image))


def miou_drop(reference: Accuracy, other: Accuracy) -> Drop:
    """The drop of mIoU between two models on the same images.

    Paired bootstrap (Efron & Tibshirani, 1993): images are drawn with replacement, the same for
    both, so what makes an image hard cancels.

    Raises:
        ValueError: the images differ.
    """
    if reference.images != other.images:
        raise ValueError("the two were scored on different images")
    names = reference.confusion.names
    counts = [np.stack([c.counts for c in a.by_image]) for a in (reference, other)]
    drawn = np.random.default_rng(0).integers(0, len(other.images), (_RESAMPLES, len(other.images)))

    def drop(rows: NDArray[np.intp] | slice) -> float:
        before, after = (Confusion(c[rows].sum(0), names).miou for c in counts)
        return before - after

    low, high = np.percentile([drop(rows) for rows in drawn], [2.5, 97.5])
    return Drop(value=drop(slice(None)), low=float(low), high=float(high))
