"""Random frames and texts, and engines so simple that the right answer for every pixel is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import segclip_deploy as deploy
from segclip_deploy.model.text import TextBank, unit_rows
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.inference.windows import LOGIT_STRIDE

CLASSES = 5  # as many as the vocabulary "dubai" has


def random_frame(height: int, width: int, seed: int = 0) -> Frame:
    """A frame of noise."""
    rng = np.random.default_rng(seed)
    return Frame(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), "noise")


def random_bank(seed: int, classes: int = CLASSES, texts: int = 3, width: int = 16) -> TextBank:
    """Texts that mean nothing."""
    rng = np.random.default_rng(seed)
    return TextBank(
        unit_rows(rng.standard_normal((classes, width))),
        unit_rows(rng.standard_normal((classes, texts, width))),
        f"random {seed}",
    )


def classes_of(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The class of each pixel (…, 3): five bands of its blue."""
    return (pixels[..., 2].astype(float) / 256 * CLASSES).astype(np.uint8)


def logits_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(K, H/4, W/4) logits: ten for the class of each block's first pixel, zero for the others.

    Half-pixel bilinear weights at scale 4 never tie between such logits.
    """
    corners = classes_of(pixels[::LOGIT_STRIDE, ::LOGIT_STRIDE])
    return 10 * np.eye(CLASSES, dtype=np.float32)[corners].transpose(2, 0, 1)


def drawn_from(logits: NDArray[np.float32], temperature: float, seed: int) -> NDArray[np.uint8]:
    """A class for each pixel of logits (K, …), with the probabilities softmax(logits / temperature)."""
    noise = np.random.default_rng(seed).gumbel(size=logits.shape)
    return (logits / temperature + noise).argmax(0).astype(np.uint8)


def blue_of(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The blue of each block's first pixel (⌈H/4⌉, ⌈W/4⌉)."""
    return pixels[::LOGIT_STRIDE, ::LOGIT_STRIDE, 2]


class FakeBackend(deploy.FakeBackend):
    """The public one, which remembers the batch of each call, and that it was closed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, classes=CLASSES, **options)
        self.seen: list[int] = []
        self.closed = False

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        outputs = super().infer(arrays)
        self.seen.append(len(arrays["image"]))
        return outputs

    def close(self) -> None:
        self.closed = True
