"""The Segmenter: a frame in, a label map out, every stage timed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts import InputSpec
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.runtime.backends.base import Backend
from segclip_deploy.runtime.frame import Frame, prepare
from segclip_deploy.runtime.windows import (
    LOGIT_STRIDE,
    Window,
    blend_logits,
    cover,
    default_overlap,
    labels_of,
)
from segclip_deploy.vocabulary import Vocabulary

__all__ = ["LabelMap", "Segmenter", "StageTimes"]


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds of wall time by a monotonic clock.

    Attributes:
        prepare: padding and cutting windows.
        infer: all windows through the engine.
        restore: joining windows and cropping to the frame.
    """

    prepare: float
    infer: float
    restore: float

    @property
    def total(self) -> float:
        """All stages."""
        return self.prepare + self.infer + self.restore


@dataclass(frozen=True)
class LabelMap:
    """What the model says of a frame.

    Attributes:
        labels: (H, W) uint8 class indices, of the frame's own size.
        windows: how many windows the frame took.
        times: where the milliseconds went.
    """

    labels: NDArray[np.uint8]
    windows: int
    times: StageTimes


class Segmenter:
    """Owns prepare → infer → restore for frames of any size.

    Frames larger than the model's input are cut into overlapping windows. With logits
    among the engine's outputs the windows are blended, without them each gives its centre.
    Smaller frames are padded by reflection and the labels cropped. Nothing is stretched.

    Args:
        backend: the engine; the Segmenter closes it.
        spec: the graph's input size and batch.
        vocabulary: what the labels mean.
        overlap: pixels neighbouring windows share, a multiple of 4; a quarter of the
            shorter side by default.

    Raises:
        BadArtifact: the engine's input or outputs are not those of the graph contract.
        BadInput: an overlap that is negative, off the grid, or as large as the window.
    """

    def __init__(
        self,
        backend: Backend,
        spec: InputSpec,
        vocabulary: Vocabulary,
        *,
        overlap: int | None = None,
    ) -> None:
        expected = (spec.batch, spec.height, spec.width, 3)
        takes = [(str(tensor.dtype), tensor.shape) for tensor in backend.inputs]
        if takes != [("uint8", expected)]:
            raise BadArtifact(
                f"the engine takes {takes}, its record says uint8 {expected}", where=backend.name
            )
        outputs = {output.name for output in backend.outputs}
        if not outputs & {"labels", "logits"}:
            raise BadArtifact("the engine outputs neither labels nor logits", where=backend.name)
        shorter = min(spec.height, spec.width)
        overlap = default_overlap(shorter) if overlap is None else overlap
        if not 0 <= overlap < shorter or overlap % LOGIT_STRIDE:
            raise BadInput(
                f"overlap {overlap} is not a multiple of {LOGIT_STRIDE} from 0 to below {shorter}",
                where="--overlap",
            )
        self.backend = backend
        self.spec = spec
        self.vocabulary = vocabulary
        self.overlap = overlap
        self.blends = "logits" in outputs
        self._batch = np.zeros(expected, dtype=np.uint8)

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *_: object) -> None:
        self.backend.close()

    def segment(self, frame: Frame) -> LabelMap:
        """Label every pixel of a frame."""
        started = time.perf_counter()
        height, width = frame.pixels.shape[:2]
        pixels = prepare(frame, *self._padded(height, width))
        windows = cover(
            pixels.shape[:2], (self.spec.height, self.spec.width), (self.overlap, self.overlap)
        )
        prepared = time.perf_counter()
        results, inferring = self._infer(pixels, windows)
        joined = time.perf_counter()
        labels = self._restore(pixels.shape[:2], windows, results)[:height, :width]
        restored = time.perf_counter()
        copying = joined - prepared - inferring
        times = StageTimes(
            prepare=1e3 * (prepared - started + copying),
            infer=1e3 * inferring,
            restore=1e3 * (restored - joined),
        )
        return LabelMap(labels, len(windows), times)

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        """The size to reflect a frame to: one window at least, and on the logit grid to blend."""
        grid = LOGIT_STRIDE if self.blends else 1
        return (
            max(self.spec.height, -(-height // grid) * grid),
            max(self.spec.width, -(-width // grid) * grid),
        )

    def _infer(
        self, pixels: NDArray[np.uint8], windows: list[Window]
    ) -> tuple[list[NDArray[Any]], float]:
        """One result per window, and the seconds spent inside the engine."""
        name = self.backend.inputs[0].name
        output = "logits" if self.blends else "labels"
        results: list[NDArray[Any]] = []
        seconds = 0.0
        for start in range(0, len(windows), self.spec.batch):
            group = windows[start : start + self.spec.batch]
            for slot, w in enumerate(group):
                self._batch[slot] = pixels[w.top : w.top + w.height, w.left : w.left + w.width]
            before = time.perf_counter()
            values = self.backend.infer({name: self._batch})[output]
            seconds += time.perf_counter() - before
            results.extend(values[: len(group)].copy())
        return results, seconds

    def _restore(
        self, shape: tuple[int, int], windows: list[Window], results: list[NDArray[Any]]
    ) -> NDArray[np.uint8]:
        if self.blends:
            return labels_of(blend_logits(shape, windows, results))
        labels = np.empty(shape, dtype=np.uint8)
        for window, part in zip(windows, results, strict=True):
            top, bottom, left, right = window.keep
            labels[top:bottom, left:right] = part[
                top - window.top : bottom - window.top, left - window.left : right - window.left
            ]
        return labels
