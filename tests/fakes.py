"""Engines so simple that the right answer for every pixel is known beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.runtime.backends.base import TensorSpec, checked
from segclip_deploy.runtime.frame import Frame
from segclip_deploy.runtime.windows import LOGIT_STRIDE

CLASSES = 5  # as many as the vocabulary "dubai" has


def random_frame(height: int, width: int, seed: int = 0) -> Frame:
    """A frame of noise."""
    rng = np.random.default_rng(seed)
    return Frame(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), "noise")


def classes_of(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The class of each pixel (…, 3): five bands of its blue."""
    return pixels[..., 2] // 52


def logits_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(K, H/4, W/4) logits: ten for the class of each block's first pixel, zero for the others.

    Half-pixel bilinear weights at scale 4 never tie between such logits.
    """
    corners = classes_of(pixels[::LOGIT_STRIDE, ::LOGIT_STRIDE])
    return 10 * np.eye(CLASSES, dtype=np.float32)[corners].transpose(2, 0, 1)


class FakeBackend:
    """A per-pixel engine; its outputs are overwritten by the next call, as the contract allows."""

    def __init__(self, height: int, width: int, batch: int = 1, *, logits: bool = False) -> None:
        self.name = "fake"
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec("image", (batch, height, width, 3), np.dtype(np.uint8)),
        )
        small = (batch, CLASSES, height // LOGIT_STRIDE, width // LOGIT_STRIDE)
        self.outputs: tuple[TensorSpec, ...] = (
            TensorSpec("logits", small, np.dtype(np.float32))
            if logits
            else TensorSpec("labels", (batch, height, width), np.dtype(np.uint8)),
        )
        self.closed = False
        self._answer = logits_of if logits else classes_of
        self._result = np.empty(self.outputs[0].shape, self.outputs[0].dtype)

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Answer for each image of the batch."""
        for slot, image in enumerate(checked(arrays, self.inputs[0])):
            self._result[slot] = self._answer(image)
        return {self.outputs[0].name: self._result}

    def close(self) -> None:
        """Remember it."""
        self.closed = True
