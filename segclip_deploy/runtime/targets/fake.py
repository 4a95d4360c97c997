"""A Backend without an engine, for testing what is built around one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.runtime.inference.backend import Backend, TensorSpec, checked
from segclip_deploy.runtime.inference.windows import LOGIT_STRIDE

__all__ = ["FakeBackend"]


class FakeBackend(Backend):
    """Labels each pixel by its own blue, so that the right answer is known without a GPU.

    The class of a pixel is its blue in ``classes`` equal bands. Logits are ten for the class of
    each 4 × 4 block's first pixel and zero for the others; the margin is that pixel's blue.

    Args:
        height, width: of the input, pixels, multiples of 4.
        batch: images per inference; the most of them, where ``min_batch`` is given.
        min_batch: the fewest.
        classes: how many, 1–255.
        logits: outputs logits in the place of labels.
        margin: outputs a margin too.
        latency_ms: what each inference lasts at least.

    Examples:
        >>> import numpy as np
        >>> from segclip_deploy import FakeBackend
        >>> with FakeBackend(64, 64) as backend:
        ...     labels = backend.infer({"image": np.full((1, 64, 64, 3), 255, np.uint8)})["labels"]
        >>> int(labels[0, 0, 0])
        4
    """

    def __init__(
        self,
        height: int,
        width: int,
        batch: int = 1,
        *,
        min_batch: int | None = None,
        classes: int = 5,
        logits: bool = False,
        margin: bool = False,
        latency_ms: float = 0.0,
    ) -> None:
        self.name = "fake"
        self.classes, self.latency_ms = classes, latency_ms
        small = (height // LOGIT_STRIDE, width // LOGIT_STRIDE)

        def tensor(name: str, sides: tuple[int, ...], dtype: type = np.uint8) -> TensorSpec:
            return TensorSpec(name, (batch, *sides), np.dtype(dtype), min_batch)

        self.inputs: tuple[TensorSpec, ...] = (tensor("image", (height, width, 3)),)
        self.outputs: tuple[TensorSpec, ...] = (
            tensor("logits", (classes, *small), np.float32)
            if logits
            else tensor("labels", (height, width)),
            *[tensor("margin", small)] * margin,
        )
        answers = {"logits": self._logits, "labels": self._labels, "margin": self._margin}
        self._answers = {o.name: answers[o.name] for o in self.outputs}
        self._results = {o.name: np.empty(o.shape, o.dtype) for o in self.outputs}

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Answer for each image of the batch; the arrays are overwritten by the next call."""
        started = time.perf_counter()
        images = checked(arrays, self.inputs[0])
        for name, answer in self._answers.items():
            for slot, image in enumerate(images):
                self._results[name][slot] = answer(image)
        time.sleep(max(0.0, self.latency_ms / 1e3 - (time.perf_counter() - started)))
        return {name: values[: len(images)] for name, values in self._results.items()}

    def close(self) -> None:
        """Nothing to release."""

    def _labels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return (pixels[..., 2].astype(np.uint16) * self.classes // 256).astype(np.uint8)

    def _logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        corners = self._labels(pixels[::LOGIT_STRIDE, ::LOGIT_STRIDE])
        return 10 * np.eye(self.classes, dtype=np.float32)[corners].transpose(2, 0, 1)

    def _margin(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return pixels[::LOGIT_STRIDE, ::LOGIT_STRIDE, 2]
