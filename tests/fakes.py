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


def blue_of(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The blue of each block's first pixel (⌈H/4⌉, ⌈W/4⌉)."""
    return pixels[::LOGIT_STRIDE, ::LOGIT_STRIDE, 2]


class FakeBackend:
    """A per-pixel engine; its outputs are overwritten by the next call, as the contract allows.

    Its margin is the blue of each block's first pixel.
    """

    def __init__(
        self,
        height: int,
        width: int,
        batch: int = 1,
        *,
        min_batch: int | None = None,
        logits: bool = False,
        margin: bool = False,
    ) -> None:
        self.name = "fake"
        small = (height // LOGIT_STRIDE, width // LOGIT_STRIDE)

        def tensor(name: str, sides: tuple[int, ...], dtype: type = np.uint8) -> TensorSpec:
            return TensorSpec(name, (batch, *sides), np.dtype(dtype), min_batch)

        self.inputs: tuple[TensorSpec, ...] = (tensor("image", (height, width, 3)),)
        self.outputs: tuple[TensorSpec, ...] = (
            tensor("logits", (CLASSES, *small), np.float32)
            if logits
            else tensor("labels", (height, width)),
            *[tensor("margin", small)] * margin,
        )
        self.closed = False
        self.seen: list[int] = []  # the batch of each call
        answers = {"logits": logits_of, "labels": classes_of, "margin": blue_of}
        self._answers = {o.name: answers[o.name] for o in self.outputs}
        self._results = {o.name: np.empty(o.shape, o.dtype) for o in self.outputs}

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Answer for each image of the batch."""
        images = checked(arrays, self.inputs[0])
        self.seen.append(len(images))
        for name, answer in self._answers.items():
            for slot, image in enumerate(images):
                self._results[name][slot] = answer(image)
        return {name: values[: len(images)] for name, values in self._results.items()}

    def close(self) -> None:
        """Remember it."""
        self.closed = True
