"""Windows over an image larger than the model's input: where they lie; and what logits say."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "LOGIT_STRIDE",
    "Window",
    "cover",
    "decode",
    "default_overlap",
    "labels_of",
    "margin_of",
    "triangle",
    "upsample",
]

LOGIT_STRIDE = 4
"""Pixels of the image per logit, along each axis (the head works at stride 4)."""


@dataclass(frozen=True)
class Window:
    """A rectangle the model sees, and the part of it that is kept.

    Attributes:
        top, left: position in the image, pixels.
        height, width: size, pixels.
        keep: (top, bottom, left, right) in the image; the kept parts of all windows tile it.
    """

    top: int
    left: int
    height: int
    width: int
    keep: tuple[int, int, int, int]


def default_overlap(size: int) -> int:
    """Overlap of neighbouring windows in pixels: a quarter of the side, on the logit grid."""
    return size // (4 * LOGIT_STRIDE) * LOGIT_STRIDE


def cover(
    image: tuple[int, int], window: tuple[int, int], overlap: tuple[int, int]
) -> list[Window]:
    """Windows that cover an image in row-major order, neighbours overlapping by at least ``overlap``.

    Each kept part ends half-way through the overlap with its neighbour (centre crop).

    Args:
        image: (H, W), at least as large as ``window``.
        window: (h, w).
        overlap: (vertical, horizontal) pixels, smaller than the window.
    """
    rows = _spans(image[0], window[0], overlap[0])
    columns = _spans(image[1], window[1], overlap[1])
    return [
        Window(top, left, *window, keep=(*keep_rows, *keep_columns))
        for top, keep_rows in rows
        for left, keep_columns in columns
    ]


def margin_of(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """How clear each decision is: the best class's probability less the second's, times 255.

    Probabilities are a softmax over the classes of logits (K, h, w), K ≥ 2 → (h, w), 0–255. The
    graph's own ``margin`` is the same function; float32 rounding may move it by one.
    """
    exponents = np.exp(logits - logits.max(0))
    second, best = np.partition(exponents, -2, axis=0)[-2:]
    return np.rint((best - second) / exponents.sum(0) * 255).astype(np.uint8)


def decode(
    logits: NDArray[np.float32], *, margin: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Logits (K, h, w) → ``labels_of`` them, and if asked for their ``margin_of``."""
    return labels_of(logits), margin_of(logits) if margin else None


def labels_of(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Upsample logits (K, h, w) by ``LOGIT_STRIDE``, bilinear, half-pixel centres; argmax → (H, W).

    The same function as the graph's own upsampling (align_corners=False).
    """
    classes, height, width = logits.shape
    size = (height * LOGIT_STRIDE, width * LOGIT_STRIDE)
    best = np.full(size, -np.inf, dtype=np.float32)
    labels = np.zeros(size, dtype=np.uint8)
    for index in range(classes):
        plane = upsample(logits[index])
        better = plane > best  # strictly: the first of equal classes wins, as in argmax
        labels[better] = index
        best[better] = plane[better]
    return labels


def upsample(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """One class's logits (h, w) → (4h, 4w), bilinear, half-pixel centres.

    Pillow's triangle filter is that interpolation when it enlarges.
    """
    height, width = plane.shape
    size = (width * LOGIT_STRIDE, height * LOGIT_STRIDE)
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR))


def triangle(length: int) -> NDArray[np.float32]:
    """Weights that fall linearly from the middle to the border and never reach zero."""
    distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    return (distance / distance.max()).astype(np.float32)


def _spans(length: int, size: int, overlap: int) -> list[tuple[int, tuple[int, int]]]:
    """(start, kept interval) of windows of ``size`` along an axis of ``length``."""
    if not 0 <= overlap < size <= length:
        raise ValueError(f"overlap {overlap}, window {size}, image {length}: not 0 ≤ o < w ≤ i")
    last = length - size
    starts = [*range(0, last, size - overlap), last]
    edges = [0]
    for before, after in pairwise(starts):
        edges.append((before + size + after) // 2)
    edges.append(length)
    return [(start, (edges[i], edges[i + 1])) for i, start in enumerate(starts)]
