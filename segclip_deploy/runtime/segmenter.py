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
    join_centres,
    labels_of,
    margin_of,
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
        margin: (⌈H/4⌉, ⌈W/4⌉) uint8, the best class's probability less the second's, times 255;
            None where the engine has no such output.
    """

    labels: NDArray[np.uint8]
    windows: int
    times: StageTimes
    margin: NDArray[np.uint8] | None = None


class Segmenter:
    """Owns prepare → infer → restore for frames of any size.

    Frames larger than the model's input are cut into overlapping windows. With logits
    among the engine's outputs the windows are blended, without them each gives its centre.
    Smaller frames are padded by reflection and the labels cropped. Nothing is stretched.
    An engine's margin is joined as its labels are: taken from the blended logits, or cut from
    the windows' centres, at most half a cell of 4 × 4 pixels beside the cut of the labels.

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
        takes = [f"{tensor.dtype} {tensor.sides}" for tensor in backend.inputs]
        if takes != [f"uint8 {spec.sides}"]:
            raise BadArtifact(
                f"the engine takes {', '.join(takes)}, its record says uint8 {spec.sides}",
                where=backend.name,
            )
        outputs = {output.name for output in backend.outputs}
        if not outputs & {"labels", "logits"}:
            raise BadArtifact("the engine outputs neither labels nor logits", where=backend.name)
        shorter = min(spec.height, spec.width)
        overlap = default_overlap(shorter) if overlap is None else overlap
        _check_overlap(overlap, shorter)
        self.backend = backend
        self.spec = spec
        self.vocabulary = vocabulary
        self.overlap = overlap
        self.blends = "logits" in outputs
        self.measures = "margin" in outputs
        self._batch = np.zeros(backend.inputs[0].shape, dtype=np.uint8)

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *_: object) -> None:
        self.backend.close()

    def segment(self, frame: Frame, *, overlap: int | None = None) -> LabelMap:
        """Label every pixel of a frame, with another ``overlap`` than the Segmenter's own if given.

        Raises:
            BadInput: an overlap as the Segmenter itself would refuse.
        """
        started = time.perf_counter()
        overlap = self.overlap if overlap is None else overlap
        _check_overlap(overlap, min(self.spec.height, self.spec.width))
        height, width = frame.pixels.shape[:2]
        pixels = prepare(frame, *self._padded(height, width))
        windows = cover(pixels.shape[:2], (self.spec.height, self.spec.width), (overlap, overlap))
        prepared = time.perf_counter()
        results, inferring = self._infer(pixels, windows)
        joined = time.perf_counter()
        labels, margin = self._restore(pixels.shape[:2], windows, results, overlap)
        labels = labels[:height, :width]
        if margin is not None:
            margin = margin[: -(-height // LOGIT_STRIDE), : -(-width // LOGIT_STRIDE)]
        restored = time.perf_counter()
        copying = joined - prepared - inferring
        times = StageTimes(
            prepare=1e3 * (prepared - started + copying),
            infer=1e3 * inferring,
            restore=1e3 * (restored - joined),
        )
        return LabelMap(labels, len(windows), times, margin)

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        """The size to reflect a frame to: one window at least, on the logit grid where that counts."""
        grid = LOGIT_STRIDE if self.blends or self.measures else 1
        return (
            max(self.spec.height, -(-height // grid) * grid),
            max(self.spec.width, -(-width // grid) * grid),
        )

    def _infer(
        self, pixels: NDArray[np.uint8], windows: list[Window]
    ) -> tuple[dict[str, list[NDArray[Any]]], float]:
        """Per output of use, one result per window; and the seconds spent inside the engine."""
        name = self.backend.inputs[0].name
        wanted = ["logits"] if self.blends else ["labels", *["margin"] * self.measures]
        results: dict[str, list[NDArray[Any]]] = {output: [] for output in wanted}
        seconds = 0.0
        for start in range(0, len(windows), self.spec.batch):
            group = windows[start : start + self.spec.batch]
            for slot, w in enumerate(group):
                self._batch[slot] = pixels[w.top : w.top + w.height, w.left : w.left + w.width]
            filled = self._batch[: max(len(group), self.spec.batches.start)]
            before = time.perf_counter()
            outputs = self.backend.infer({name: filled})
            seconds += time.perf_counter() - before
            for output, values in results.items():
                values.extend(outputs[output][: len(group)].copy())
        return results, seconds

    def _restore(
        self,
        shape: tuple[int, int],
        windows: list[Window],
        results: dict[str, list[NDArray[Any]]],
        overlap: int,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        if self.blends:
            logits = blend_logits(shape, windows, results["logits"])
            return labels_of(logits), margin_of(logits) if self.measures else None
        labels = join_centres(shape, windows, results["labels"])
        if not self.measures:
            return labels, None
        height, width = (side // LOGIT_STRIDE for side in shape)
        window = (self.spec.height // LOGIT_STRIDE, self.spec.width // LOGIT_STRIDE)
        cells = cover((height, width), window, (overlap // LOGIT_STRIDE,) * 2)
        return labels, join_centres((height, width), cells, results["margin"])


def _check_overlap(overlap: int, shorter: int) -> None:
    if not 0 <= overlap < shorter or overlap % LOGIT_STRIDE:
        raise BadInput(
            f"overlap {overlap} is not a multiple of {LOGIT_STRIDE} from 0 to below {shorter}",
            where="--overlap",
        )
