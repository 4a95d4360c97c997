"""Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle_record import ConfidenceScores, TemperatureFit
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.confidence import Reliability, labelled_logits, reliability_of
from segclip_deploy.evaluation.dataset import Dataset, choose_plan_split
from segclip_deploy.progress import Report, saying, silent
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.inference.stitching import LogitRows, OnLogits

__all__ = ["calibrate_confidence", "fit_temperature"]

_LEAST, _MOST = 0.01, 100.0
"""Of a temperature: beyond them nothing is scaled any more, but something is wrong."""

_NUMBERS = 2**23  # logits that are kept in all: 32 MiB
_PART = 2**16  # pixels that are computed with at once
_STEPS, _EXACT = 100, 1e-7  # of Newton's method; halving alone would take 35


def calibrate_confidence(
    segmenter: Segmenter,
    dataset: Dataset,
    *,
    stopped_on: Collection[str] = (),
    report: Report = silent,
) -> TemperatureFit:
    """Fit the temperature of a model on ground truth: of split ``plan``, or the only one, which is said.

    Logits are those that labels come from: blended between windows and upsampled. Of all pixels so many are
    drawn as 8 million logits take, always the same.

    Args:
        segmenter: the model, with its logits among the outputs.
        dataset: images with masks.
        stopped_on: names of the images that early stopping chose the model on: one line says so.
        report: told how far it is.

    Raises:
        BadInput: no such split, no pixel with a class, an image or mask that cannot be used, or logits
            that no temperature between 0.01 and 100 fits.
    """
    where = f"--calibrate-confidence {dataset.root}"
    split = choose_plan_split(dataset, None, report, use="the temperature is fitted")
    names = dataset.names(split)
    if seen := {*names} & {*stopped_on}:
        saying(report)(
            f"{dataset.root}: early stopping chose the checkpoint on {len(seen)} of the {len(names)} images of split "
            f"{split}, so the temperature may come out too low; evaluate says what it is worth on others"
        )
    drawn = _Drawn(len(segmenter.vocabulary.names))
    for done, sample in enumerate(dataset.samples(split)):
        report("fitting the temperature", done, len(names))
        segmenter.segment(sample.frame, on_logits=drawn.reads(sample.ground_truth))
    report("fitting the temperature", len(names), len(names))
    logits, labels = drawn.pixels()
    if not len(labels):
        raise BadInput(
            f"no pixel of split {split!r} has a class of {segmenter.vocabulary.title}", where=where
        )
    value = fit_temperature(logits, labels)
    if not _LEAST < value < _MOST:
        wrong = "are right almost without exception" if value < 1 else "say nothing of the class"
        raise BadInput(
            f"no temperature fits: the logits {wrong} on split {split!r}",
            where=where,
            fix="give a dataset that the model was not trained on",
        )
    return TemperatureFit(
        value=value,
        dataset=str(dataset.root),
        split=split,
        images=names,
        pixels=len(labels),
        before=_scores(logits, labels, 1.0),
        after=_scores(logits, labels, value),
    )


def fit_temperature(logits: NDArray[np.float32], ground_truth: NDArray[np.uint8]) -> float:
    """The T > 0 with the least −Σ ln softmax(logits / T)[ground truth].

    It is convex in β = 1/T: its derivative is the mean of E_p[z] − z_true, and grows with the mean of
    Var_p[z]. Newton's method, which halves the interval where it would leave it.

    Args:
        logits: (K, N).
        ground_truth: (N,) class indices below K.

    Returns:
        T; one of 0.01 and 100, where the least lies there or beyond.
    """
    low, high = 1 / _MOST, 1 / _LEAST
    if _slope(logits, ground_truth, low)[0] >= 0:
        return _MOST
    if _slope(logits, ground_truth, high)[0] <= 0:
        return _LEAST
    beta = 1.0
    for _ in range(_STEPS):
        slope, curvature = _slope(logits, ground_truth, beta)
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = beta - slope / curvature if curvature > 0 else low
        after = step if low < step < high else (low + high) / 2
        if abs(after - beta) <= _EXACT * beta:
            return 1 / after
        beta = after
    return 1 / beta


class _Drawn:
    """Pixels of all images: as many as fit, each as likely as any other, and always the same.

    Each pixel draws a number from 0 to 1, and is kept if it is below ``share``. Where too many are kept the share
    is halved. What is left at the end depends on the pixels alone, not on how their rows arrived.
    """

    def __init__(self, classes: int) -> None:
        self._most = _NUMBERS // classes
        self._share = 1.0
        self._rng = np.random.default_rng(0)
        self._parts: list[_Part] = [_Part.empty(classes)]
        self._count = 0

    def reads(self, ground_truth: NDArray[np.uint8]) -> OnLogits:
        """What takes the logits of an image with this ground truth (H, W)."""

        def read(rows: LogitRows) -> None:
            for logits, labels in labelled_logits(rows, ground_truth):
                drawn = self._rng.random(len(labels), dtype=np.float32)
                part = _Part(logits, labels, drawn).below(self._share)
                self._parts.append(part)
                self._count += len(part.labels)
                while self._count > self._most:
                    self._share /= 2
                    self._parts = [part.below(self._share) for part in self._parts]
                    self._count = sum(len(part.labels) for part in self._parts)

        return read

    def pixels(self) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Logits (K, N) and classes (N,) of what was drawn."""
        logits = np.concatenate([part.logits for part in self._parts], axis=1)
        return logits, np.concatenate([part.labels for part in self._parts])


@dataclass(frozen=True)
class _Part:
    """Some pixels: logits (K, n), classes (n,), and the number that each drew (n,)."""

    logits: NDArray[np.float32]
    labels: NDArray[np.uint8]
    drawn: NDArray[np.float32]

    @classmethod
    def empty(cls, classes: int) -> _Part:
        none = np.empty(0, np.float32)
        return cls(np.empty((classes, 0), np.float32), none.astype(np.uint8), none)

    def below(self, share: float) -> _Part:
        kept = self.drawn < share
        return _Part(self.logits[:, kept], self.labels[kept], self.drawn[kept])


def _slope(
    logits: NDArray[np.float32], ground_truth: NDArray[np.uint8], beta: float
) -> tuple[float, float]:
    """First and second derivative of the mean negative log-likelihood by β."""
    slope = curvature = 0.0
    for z, labels in _parts(logits, ground_truth):
        z = z - z.max(0)
        p = np.exp(np.float32(beta) * z)
        p /= p.sum(0)
        mean = (p * z).sum(0)
        true = np.take_along_axis(z, labels[None].astype(np.intp), 0)[0]
        slope += float((mean - true).sum(dtype=np.float64))
        curvature += float((p * np.square(z - mean)).sum(dtype=np.float64))
    return slope / len(ground_truth), curvature / len(ground_truth)


def _scores(
    logits: NDArray[np.float32], ground_truth: NDArray[np.uint8], temperature: float
) -> ConfidenceScores:
    parts = _parts(logits, ground_truth)
    found = (reliability_of(z / np.float32(temperature), labels) for z, labels in parts)
    pooled = sum(found, Reliability.empty())
    return ConfidenceScores(ece=pooled.ece, nll=pooled.mean_nll)


def _parts(
    logits: NDArray[np.float32], ground_truth: NDArray[np.uint8]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    for start in range(0, len(ground_truth), _PART):
        part = slice(start, start + _PART)
        yield logits[:, part], ground_truth[part]
