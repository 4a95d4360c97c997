"""The Segmenter: a frame in, a label map out, every stage timed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, Vocabulary
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.runtime.inference.backend import Backend, Decode
from segclip_deploy.runtime.inference.frame import Frame, prepare
from segclip_deploy.runtime.inference.images import ImageLike, as_frame
from segclip_deploy.runtime.inference.label_map import LabelMap, StageTimes
from segclip_deploy.runtime.inference.stitching import (
    Blend,
    Centres,
    OnLogits,
    Read,
    Rows,
    Tally,
    infer_windows,
)
from segclip_deploy.runtime.inference.windows import (
    LOGIT_STRIDE,
    Window,
    cover,
    decode,
    default_overlap,
)

__all__ = ["Segmenter"]


class Segmenter:
    """Owns prepare → infer → postprocess for frames of any size.

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

    Examples:
        >>> import numpy as np
        >>> from segclip_deploy import FakeBackend, InputSpec, Segmenter, load_vocabulary
        >>> segment = Segmenter(FakeBackend(64, 64), InputSpec(64, 64), load_vocabulary("dubai"))
        >>> labels = segment(np.zeros((90, 100, 3), np.uint8))
        >>> labels.labels.shape, labels.windows
        ((90, 100), 4)
        >>> segment.close()
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
        # A backend on a GPU decodes there; elsewhere NumPy does.
        self._decode: Decode = backend.decode or decode
        self._batch = np.zeros(backend.inputs[0].shape, dtype=np.uint8)
        self._closed = False

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the backend; a second time does nothing. No call may follow."""
        if not self._closed:
            self._closed = True
            self.backend.close()

    def __call__(self, image: ImageLike, *, overlap: int | None = None) -> LabelMap:
        """Label every pixel of an image: ``segment``, of whatever ``as_frame`` takes.

        Args:
            image: a path, an (H, W, 3) uint8 RGB array, a picture of Pillow, or a frame.
            overlap: in place of the Segmenter's own.

        Raises:
            BadInput: no such image, or not 8-bit RGB; a video, camera or georeferenced raster; an
                overlap as the Segmenter itself would refuse; or the Segmenter is closed.
        """
        self._check_open()
        return self.segment(as_frame(image), overlap=overlap)

    def segment(
        self, frame: Frame, *, overlap: int | None = None, on_logits: OnLogits | None = None
    ) -> LabelMap:
        """Label every pixel of a frame.

        Args:
            frame: the image.
            overlap: in place of the Segmenter's own.
            on_logits: told the blended logits, while labels are made; those of the frame as it is
                ``padded``.

        Raises:
            BadInput: an overlap as the Segmenter itself would refuse, or the Segmenter is closed.
            ValueError: ``on_logits`` of an engine that outputs none.
        """
        self._check_open()
        started = time.perf_counter()
        overlap = self.overlap if overlap is None else overlap
        _check_overlap(overlap, min(self.spec.height, self.spec.width))
        height, width = frame.pixels.shape[:2]
        shape = self.padded(height, width)
        pixels = prepare(frame, *shape)
        cells = (shape[0] // LOGIT_STRIDE, shape[1] // LOGIT_STRIDE)
        whole = {"labels": np.empty(shape, np.uint8), "margin": np.empty(cells, np.uint8)}
        tally = Tally()
        prepared = time.perf_counter()

        def read(w: Window) -> NDArray[np.uint8]:
            return pixels[w.top : w.top + w.height, w.left : w.left + w.width]

        parts = self.rows(
            shape, read, overlap=overlap, margin=self.measures, on_logits=on_logits, tally=tally
        )
        for rows in parts:
            whole[rows.output][rows.top : rows.bottom] = rows.values
        margin = whole["margin"][: -(-height // LOGIT_STRIDE), : -(-width // LOGIT_STRIDE)]
        joining = time.perf_counter() - prepared - tally.cutting - tally.inferring
        times = StageTimes(
            prepare=1e3 * (prepared - started + tally.cutting),
            infer=1e3 * tally.inferring,
            postprocess=1e3 * joining,
        )
        labels = whole["labels"][:height, :width]
        if frame.valid is not None:
            labels[~frame.valid] = IGNORE_INDEX
        return LabelMap(
            labels,
            tally.windows,
            times,
            margin if self.measures else None,
            vocabulary=self.vocabulary,
            frame=frame,
        )

    def rows(
        self,
        shape: tuple[int, int],
        read: Read,
        *,
        overlap: int | None = None,
        margin: bool = False,
        on_logits: OnLogits | None = None,
        first: int = 0,
        stop: int | None = None,
        tally: Tally | None = None,
    ) -> Iterator[Rows]:
        """Label an image of any size from the top; what ``segment`` does, without holding the image.

        The memory needed is that of a row of windows. Batches are filled across rows.

        Args:
            shape: (H, W) as ``padded`` gives it.
            read: the pixels of a window.
            overlap: in place of the Segmenter's own.
            margin: whether to give margins, too.
            on_logits: told the blended logits of all rows.
            first: the first row of labels that is wanted; there are no margins and logits then.
            stop: the row after the last that is wanted, or all; there are no margins and logits then.
            tally: is added to.

        Yields:
            labels, and margins, of all rows that are wanted, each once and in order.

        Raises:
            ValueError: margins or logits of a part; or logits of an engine that outputs none.
            BadInput: the Segmenter is closed.
        """
        self._check_open()
        if (margin or on_logits) and (first or stop is not None):
            raise ValueError("margins and logits are given of whole images")
        if on_logits and not self.blends:
            raise ValueError(f"{self.backend.name} outputs no logits")
        stop = shape[0] if stop is None else stop
        overlap = self.overlap if overlap is None else overlap
        size = (self.spec.height, self.spec.width)
        windows = [
            window
            for window in cover(shape, size, (overlap, overlap))
            if self._reach(window)[0] < stop and self._reach(window)[1] > first
        ]
        joins: list[Centres | Blend]
        if self.blends:
            classes = next(o.shape[1] for o in self.backend.outputs if o.name == "logits")
            joins = [
                Blend(windows, classes, margin=margin, decode=self._decode, on_logits=on_logits)
            ]
        else:
            joins = [Centres("labels", windows)]
            if margin:
                height, width, h, w, shared = (n // LOGIT_STRIDE for n in (*shape, *size, overlap))
                cells = cover((height, width), (h, w), (shared, shared))
                joins.append(Centres("margin", cells))
        least = self.spec.batches.start
        for rows in infer_windows(
            self.backend, self._batch, least, windows, read, joins, tally or Tally()
        ):
            # Others were computed on the way, from some of their windows only.
            wanted = rows.values[max(0, first - rows.top) : max(0, stop - rows.top)]
            if len(wanted):
                yield Rows(rows.output, max(first, rows.top), wanted)

    def cuts(self, shape: tuple[int, int]) -> list[int]:
        """Where an image (H, W) is best cut into parts: a row of labels for every row of windows.

        From each on, ``rows`` needs that row of windows and those below it, none above.
        """
        size = (self.spec.height, self.spec.width)
        reached = [self._reach(w)[1] for w in cover(shape, size, (self.overlap,) * 2) if not w.left]
        return [0, *(row for row in reached if row < shape[0])]

    def _check_open(self) -> None:
        if self._closed:
            raise BadInput(
                "the segmenter is closed", where=self.backend.name, fix="open it again to use it"
            )

    def _reach(self, window: Window) -> tuple[int, int]:
        """The rows of labels (from, to) that a window has a part in."""
        if not self.blends:
            return window.keep[:2]
        # A blended label needs the logits of one cell above and below.
        return window.top - LOGIT_STRIDE, window.top + window.height + LOGIT_STRIDE

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The size to reflect a frame to: one window at least, on the logit grid where that counts."""
        grid = LOGIT_STRIDE if self.blends or self.measures else 1
        return (
            max(self.spec.height, -(-height // grid) * grid),
            max(self.spec.width, -(-width // grid) * grid),
        )


def _check_overlap(overlap: int, shorter: int) -> None:
    if not 0 <= overlap < shorter or overlap % LOGIT_STRIDE:
        raise BadInput(
            f"overlap {overlap} is not a multiple of {LOGIT_STRIDE} from 0 to below {shorter}",
            where="--overlap",
        )
