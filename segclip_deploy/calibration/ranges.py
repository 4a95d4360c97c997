"""From the values of a tensor to the range that eight bits should span."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.calibration.table import Range

__all__ = ["METHODS", "Histogram"]

_BINS = 2048  # to each side of zero
_LEVELS = 128  # of a magnitude in S8
_KEPT = 0.9999  # share of values that the percentile method keeps
_SEARCH = np.linspace(0.2, 1.0, 81)  # shares of the extreme that the mse method tries


@dataclass
class Histogram:
    """Counts of values in bins over ±top, where top doubles as values grow.

    top is a power of two, so that bins nest: the counts depend neither on the order of the
    values nor on how they came in batches.

    Attributes:
        counts: (4096,) from −top to top.
        top: 0 until a value that is not zero came.
        low, high: exact extremes.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2 * _BINS, np.int64))
    top: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    def add(self, values: NDArray[np.float32]) -> None:
        """Count finite values."""
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-low, high)
        if largest > self.top:
            self._grow(2.0 ** np.ceil(np.log2(largest)))
        if self.top == 0:
            self.counts[_BINS] += values.size
            return
        # In place and by way of intp: half the time of np.histogram, and this is the inner loop.
        scaled = values.ravel() * np.float32(_BINS / self.top)
        scaled += _BINS
        bins = scaled.astype(np.intp)
        np.minimum(bins, 2 * _BINS - 1, out=bins)  # top itself
        self.counts += np.bincount(bins, minlength=2 * _BINS)

    def _grow(self, top: float) -> None:
        while 0 < self.top < top:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts[:] = 0
            self.counts[_BINS // 2 : _BINS // 2 + _BINS] = merged
            self.top *= 2
        self.top = max(self.top, top)

    @property
    def centres(self) -> NDArray[np.floating[Any]]:
        """The middle of every bin."""
        return (np.arange(-_BINS, _BINS) + 0.5) * (self.top / _BINS)

    @property
    def magnitudes(self) -> NDArray[np.int64]:
        """Counts of |value|, (2048,) from 0 to top."""
        return self.counts[_BINS:] + self.counts[_BINS - 1 :: -1]


def _minmax(seen: Histogram) -> Range:
    return Range(seen.low, seen.high, max(-seen.low, seen.high))


def _percentile(seen: Histogram) -> Range:
    """Keeps 99.99 % of the values to each side, and of the magnitudes."""
    edges = np.arange(-_BINS, _BINS + 1) * (seen.top / _BINS)
    below = np.cumsum(seen.counts) / seen.counts.sum()
    low = edges[np.searchsorted(below, 1 - _KEPT, side="right")]
    high = edges[1:][np.searchsorted(below, _KEPT)]
    inner = np.cumsum(seen.magnitudes) / seen.counts.sum()
    return _within(seen, low, high, edges[_BINS + 1 :][np.searchsorted(inner, _KEPT)])


def _mse(seen: Histogram) -> Range:
    """Least expected squared error: rounding inside the range against clipping outside."""
    values, counts = seen.centres, seen.counts
    used = counts > 0
    values, counts = values[used], counts[used]

    def error(low: float, high: float, levels: int) -> float:
        step = max((high - low) / levels, np.finfo(np.float32).tiny)
        zero = np.rint(-low / step)
        rounded = (np.clip(np.rint(values / step) + zero, 0, levels) - zero) * step
        return float((counts * (values - rounded) ** 2).sum())

    extreme = _minmax(seen)
    magnitude = min(extreme.magnitude * _SEARCH, key=lambda t: error(-t, t, 2 * (_LEVELS - 1)))
    low, high = min(extreme.low, 0.0), max(extreme.high, 0.0)
    high = min(high * _SEARCH, key=lambda t: error(low, t, 255))
    low = min(low * _SEARCH, key=lambda t: error(t, high, 255))
    return _within(seen, low, high, magnitude)


def _entropy(seen: Histogram) -> Range:
    """Least Kullback–Leibler divergence from the clipped distribution to its 128 levels.

    Migacz, "8-bit inference with TensorRT", GTC 2017.
    """
    counts = seen.magnitudes.astype(np.float64)
    counts[0] = counts[1]  # zeros are exact at any scale and would hide the rest
    last = int(np.flatnonzero(seen.magnitudes)[-1]) + 1
    candidates = range(_LEVELS, last + 1, 8) if last > _LEVELS else [last]
    best = min(candidates, key=lambda size: _divergence(counts, size))
    magnitude = best * seen.top / _BINS
    return _within(seen, -magnitude, magnitude, magnitude)


def _divergence(counts: NDArray[np.float64], size: int) -> float:
    reference = counts[:size].copy()
    reference[-1] += counts[size:].sum()
    level = np.arange(size) * _LEVELS // size
    filled = reference > 0
    total = np.bincount(level, weights=counts[:size], minlength=_LEVELS)
    spread = np.bincount(level, weights=filled, minlength=_LEVELS)
    model = np.where(filled, (total / np.maximum(spread, 1))[level], 0)
    p, q = reference / max(reference.sum(), 1), model / max(model.sum(), 1)
    if (q[filled] == 0).any():
        return np.inf
    return float((p[filled] * np.log(p[filled] / q[filled])).sum())


def _within(seen: Histogram, low: float, high: float, magnitude: float) -> Range:
    """No range is wider than the values were."""
    extreme = _minmax(seen)
    return Range(
        float(max(low, extreme.low)),
        float(min(high, extreme.high)),
        float(min(magnitude, extreme.magnitude)),
    )


METHODS: Mapping[str, Callable[[Histogram], Range]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}
"""How a range is chosen from a histogram."""
