"""Is a model right as often as it says? Reliability and expected calibration error, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.runtime.inference.stitching import LogitRows, OnLogits

__all__ = [
    "BINS",
    "Confidence",
    "ConfidenceMeter",
    "Reliability",
    "labelled_logits",
    "reliability_of",
]

BINS = 15
"""Of equal width, over the best class's probability: as in Guo et al., ICML 2017."""


@dataclass(frozen=True)
class Reliability:
    """How sure a model is of pixels, and how often it is right; add two to pool their pixels.

    The confidence of a pixel is the best class's probability, a softmax over its logits. Bin m
    holds what is above m/15 and at most (m + 1)/15.

    Attributes:
        pixels: (15,) how many are in each bin.
        confidence: (15,) the sum of their confidences.
        hits: (15,) how many of them are right.
        nll: the sum of −ln p(ground truth) over all pixels, nats.
    """

    pixels: NDArray[np.int64]
    confidence: NDArray[np.float64]
    hits: NDArray[np.int64]
    nll: float

    @classmethod
    def empty(cls) -> Reliability:
        """No pixel seen yet."""
        counts = np.zeros(BINS, np.int64)
        return cls(counts, np.zeros(BINS), counts, 0.0)

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(
            self.pixels + other.pixels,
            self.confidence + other.confidence,
            self.hits + other.hits,
            self.nll + other.nll,
        )

    @property
    def total(self) -> int:
        """Pixels in all bins."""
        return int(self.pixels.sum())

    @property
    def ece(self) -> float:
        """Expected calibration error, 0 to 1: Σ |accuracy − confidence| · share of pixels; NaN of no pixel."""
        gaps = np.abs(self.hits - self.confidence)  # each times its bin's pixels
        return float(gaps.sum() / self.total) if self.total else math.nan

    @property
    def mean_nll(self) -> float:
        """Mean −ln p(ground truth), nats; NaN of no pixel."""
        return self.nll / self.total if self.total else math.nan

    @property
    def bin_confidence(self) -> NDArray[np.float64]:
        """(15,) mean confidence of each bin; NaN of an empty one."""
        return self._mean(self.confidence)

    @property
    def bin_accuracy(self) -> NDArray[np.float64]:
        """(15,) share of each bin that is right; NaN of an empty one."""
        return self._mean(self.hits)

    def to_json(self) -> dict[str, Any]:
        """As JSON; null where there is no pixel, or logits are not finite."""
        edges = [m / BINS for m in range(BINS + 1)]
        columns = (self.pixels, self.bin_confidence, self.bin_accuracy)
        return {
            "ece": _number(self.ece),
            "nll": _number(self.mean_nll),
            "pixels": self.total,
            "bins": [
                {
                    "above": edges[m],
                    "to": edges[m + 1],
                    "pixels": int(pixels),
                    "confidence": _number(confidence),
                    "accuracy": _number(accuracy),
                }
                for m, (pixels, confidence, accuracy) in enumerate(zip(*columns, strict=True))
            ],
        }

    def _mean(self, sums: NDArray[Any]) -> NDArray[np.float64]:
        empty = np.full(BINS, np.nan)
        return np.divide(sums, self.pixels, out=empty, where=self.pixels > 0)


def reliability_of(logits: NDArray[np.float32], ground_truth: NDArray[np.uint8]) -> Reliability:
    """Sort pixels into bins.

    Args:
        logits: (K, N).
        ground_truth: (N,) class indices below K.
    """
    best = logits.max(0)
    total = np.exp(logits - best).sum(0)
    confidence = 1 / total  # the best class's own exponent is 1
    hits = logits.argmax(0) == ground_truth
    true = np.take_along_axis(logits, ground_truth[None].astype(np.intp), 0)[0]
    bins = np.ceil(np.nan_to_num(confidence) * BINS).clip(1, BINS).astype(np.intp) - 1
    return Reliability(
        pixels=np.bincount(bins, minlength=BINS),
        confidence=np.bincount(bins, confidence, minlength=BINS).astype(np.float64),
        hits=np.bincount(bins[hits], minlength=BINS),
        nll=float((np.log(total) + best - true).sum(dtype=np.float64)),
    )


def labelled_logits(
    rows: LogitRows, ground_truth: NDArray[np.uint8]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Logits (K, N) and classes (N,) of the pixels that have ground truth, in the order of the image.

    Args:
        rows: of an image, padded or not.
        ground_truth: (H, W) class indices; ``IGNORE_INDEX`` is left out.
    """
    for top, logits in rows.upsampled():
        labels = ground_truth[top : top + logits.shape[1]]
        labelled = labels != IGNORE_INDEX
        if labelled.any():
            yield logits[:, : len(labels), : labels.shape[1]][:, labelled], labels[labelled]


@dataclass(frozen=True)
class Confidence:
    """What an engine's probabilities are worth, on labelled images.

    Attributes:
        measured: of its probabilities as they are.
        temperature: that its logits were divided by when it was exported; None: they were not.
        before: of its probabilities without that temperature; None where there is none.
    """

    measured: Reliability
    temperature: float | None = None
    before: Reliability | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            **self.measured.to_json(),
            "temperature": self.temperature,
            "before": self.before.to_json() if self.before else None,
        }


class ConfidenceMeter:
    """Measures reliability over images, from the logits that their labels come from.

    Args:
        temperature: that the engine's logits were divided by; None: they were not.
    """

    def __init__(self, temperature: float | None) -> None:
        self._temperature = temperature
        self._measured = self._before = Reliability.empty()

    def reads(self, ground_truth: NDArray[np.uint8]) -> OnLogits:
        """What takes the logits of an image with this ground truth (H, W)."""

        def read(rows: LogitRows) -> None:
            for logits, labels in labelled_logits(rows, ground_truth):
                self._measured += reliability_of(logits, labels)
                if self._temperature is not None:
                    self._before += reliability_of(logits * np.float32(self._temperature), labels)

        return read

    @property
    def found(self) -> Confidence:
        """What was measured so far."""
        before = None if self._temperature is None else self._before
        return Confidence(self._measured, self._temperature, before)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
