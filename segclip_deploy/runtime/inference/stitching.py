"""Labels of an image of any size, a row of windows at a time: what is finished is handed on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.runtime.inference.backend import Backend, Decode
from segclip_deploy.runtime.inference.windows import (
    LOGIT_STRIDE,
    Window,
    decode,
    triangle,
    upsample,
)

__all__ = ["Blend", "Centres", "LogitRows", "OnLogits", "Read", "Rows", "Tally", "infer_windows"]

Read = Callable[[Window], NDArray[np.uint8] | None]
"""The pixels (h, w, 3) of a window, uint8 RGB; None where there is nothing to label."""


@dataclass(frozen=True)
class Rows:
    """Finished rows of one output.

    Attributes:
        output: ``labels`` or ``margin``.
        top: place of the first row; of a margin in cells of ``LOGIT_STRIDE`` pixels.
        values: (h, W) uint8.
    """

    output: str
    top: int
    values: NDArray[np.uint8]

    @property
    def bottom(self) -> int:
        """The row after the last."""
        return self.top + len(self.values)


_SLAB = 8  # rows of logits that are upsampled at once


@dataclass(frozen=True)
class LogitRows:
    """Blended logits of some rows of an image, whose labels are finished.

    Attributes:
        top: the first finished row of pixels.
        values: (K, h, W/4) float32; beside the finished rows of logits the one above and the one below, where
            the image has them.
        first, stop: the finished rows of ``values``, from and to.
    """

    top: int
    values: NDArray[np.float32]
    first: int
    stop: int

    def upsampled(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The logits of every pixel, a few rows at a time: row of the first, and (K, h, W).

        These are the logits that ``windows.labels_of`` takes the best of.
        """
        top = self.top
        for start in range(self.first, self.stop, _SLAB):
            end = min(start + _SLAB, self.stop)
            above = max(0, start - 1)
            planes = [upsample(plane[above : end + 1]) for plane in self.values]
            rows = slice((start - above) * LOGIT_STRIDE, (end - above) * LOGIT_STRIDE)
            yield top, np.stack([plane[rows] for plane in planes])
            top += (end - start) * LOGIT_STRIDE


OnLogits = Callable[[LogitRows], None]
"""Told the logits that labels come from, row by row from the top: each row once."""


@dataclass
class Tally:
    """What labelling took so far: windows inferred, seconds of cutting them and inside the engine."""

    windows: int = 0
    cutting: float = 0.0
    inferring: float = 0.0


class Centres:
    """Joins what each window keeps of an output; windows come row by row, and each row is finished.

    Args:
        output: its name, in the engine and in the rows.
        windows: over the output, whole rows of them, row-major.
    """

    def __init__(self, output: str, windows: Sequence[Window]) -> None:
        self.output = output
        self._windows = windows
        self._width = windows[-1].keep[3]
        self._rows = np.empty((0, self._width), np.uint8)

    def add(self, index: int, part: NDArray[np.uint8] | None) -> Iterator[Rows]:
        """Take the next window's output (h, w); None leaves what it keeps ``IGNORE_INDEX``."""
        w = self._windows[index]
        top, bottom, left, right = w.keep
        if left == 0:
            self._rows = np.empty((bottom - top, self._width), np.uint8)
        self._rows[:, left:right] = (
            IGNORE_INDEX
            if part is None
            else part[top - w.top : bottom - w.top, left - w.left : right - w.left]
        )
        if right == self._width:
            yield Rows(self.output, top, self._rows)


class Blend:
    """Averages overlapping logits, each weighted by its distance from its window's border.

    Labels and margins come from the averages; a row of logits is finished when no later window
    reaches it, a row of labels when the logits below it are, too.

    Args:
        windows: over the image, whole rows of them, row-major, on the grid of the logits.
        classes: K.
        margin: whether margins are wanted.
        decode: logits → labels and margin, as ``windows.decode`` does.
        on_logits: told the averages.
    """

    output = "logits"

    def __init__(
        self,
        windows: Sequence[Window],
        classes: int,
        *,
        margin: bool,
        decode: Decode = decode,
        on_logits: OnLogits | None = None,
    ) -> None:
        self._windows = windows
        self._margin = margin
        self._decode = decode
        self._on_logits = on_logits
        self._width = windows[-1].keep[3] // LOGIT_STRIDE
        h, w = (side // LOGIT_STRIDE for side in (windows[0].height, windows[0].width))
        self._ramp = np.outer(triangle(h), triangle(w))
        self._top = windows[0].top // LOGIT_STRIDE  # cell row that the sums begin at
        self._total = np.zeros((classes, 0, self._width), np.float32)
        self._weight = np.zeros((0, self._width), np.float32)
        # Finished logits that the next labels still need, at most two rows.
        self._above = self._total

    def add(self, index: int, logits: NDArray[np.float32] | None) -> Iterator[Rows]:
        """Take the next window's logits (K, h/4, w/4); None adds nothing."""
        w = self._windows[index]
        top, left = w.top // LOGIT_STRIDE - self._top, w.left // LOGIT_STRIDE
        if w.left == 0:
            self._extend(top + len(self._ramp))
        if logits is not None:
            rows = slice(top, top + len(self._ramp))
            columns = slice(left, left + self._ramp.shape[1])
            self._total[:, rows, columns] += logits * self._ramp
            self._weight[rows, columns] += self._ramp
        if w.keep[3] == self._windows[-1].keep[3]:
            last = index + 1 == len(self._windows)
            end = self._top + self._total.shape[1]
            yield from self._finish(
                end if last else self._windows[index + 1].top // LOGIT_STRIDE, last
            )

    def _extend(self, rows: int) -> None:
        more = rows - self._total.shape[1]
        self._total = np.pad(self._total, ((0, 0), (0, more), (0, 0)))
        self._weight = np.pad(self._weight, ((0, more), (0, 0)))

    def _finish(self, end: int, last: bool) -> Iterator[Rows]:
        """Hand on what lies above cell row ``end``, but for labels that depend on logits below it."""
        count = end - self._top
        weight = self._weight[:count]
        # Where no window was read there is no weight, and nobody asks for the label.
        finished = self._total[:, :count] / (weight + (weight == 0))
        context = self._above.shape[1]
        logits = np.concatenate([self._above, finished], axis=1)
        labels, margin = self._decode(logits, margin=self._margin)
        if margin is not None:
            yield Rows("margin", self._top, margin[context:])
        first = self._top - context  # cell row of logits[:, 0]
        skip = max(0, context - 1)  # their labels are out, or above what was asked for
        stop = logits.shape[1] - (0 if last else 1)
        if stop > skip:
            top = (first + skip) * LOGIT_STRIDE
            if self._on_logits:
                self._on_logits(LogitRows(top, logits, skip, stop))
            yield Rows("labels", top, labels[skip * LOGIT_STRIDE : stop * LOGIT_STRIDE])
        self._above = logits[:, -2:]
        self._top = end
        self._total = self._total[:, count:]
        self._weight = self._weight[count:]


def infer_windows(
    backend: Backend,
    batch: NDArray[np.uint8],
    least: int,
    windows: Sequence[Window],
    read: Read,
    joins: Sequence[Centres | Blend],
    tally: Tally,
) -> Iterator[Rows]:
    """Run windows through an engine in full batches, also across rows of windows.

    Args:
        backend: the engine.
        batch: buffer for as many images as it takes at once.
        least: the fewest it takes.
        windows: whole rows of them, row-major.
        read: called once per window, in order.
        joins: what the engine's outputs go to.
        tally: is added to.
    """
    name = backend.inputs[0].name
    waiting: list[tuple[int, int | None]] = []  # window, its slot in the batch if it has pixels
    filled = 0
    for index, window in enumerate(windows):
        started = time.perf_counter()
        pixels = read(window)
        if pixels is not None:
            batch[filled] = pixels
        waiting.append((index, None if pixels is None else filled))
        filled += pixels is not None
        tally.cutting += time.perf_counter() - started
        if 0 < filled < len(batch) and index + 1 < len(windows):
            continue
        outputs: Any = {}
        if filled:
            started = time.perf_counter()
            outputs = backend.infer({name: batch[: max(filled, least)]})
            tally.inferring += time.perf_counter() - started
            tally.windows += filled
        for number, slot in waiting:
            for join in joins:
                yield from join.add(number, None if slot is None else outputs[join.output][slot])
        waiting, filled = [], 0
