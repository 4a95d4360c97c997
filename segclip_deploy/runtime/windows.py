"""Windows over an image larger than the model's input: where they lie, and how they join."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "LOGIT_STRIDE",
    "Window",
    "blend_logits",
    "cover",
    "default_overlap",
    "join_centres",
    "labels_of",
    "margin_of",
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


def blend_logits(
    shape: tuple[int, int], windows: list[Window], logits: list[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Average overlapping logits, each weighted by its distance from its window's border.

    Args:
        shape: (H, W) of the image, multiples of ``LOGIT_STRIDE``, as are the windows' places.
        logits: (K, h/4, w/4) of each window.

    Returns:
        (K, H/4, W/4).
    """
    height, width = (side // LOGIT_STRIDE for side in shape)
    total = np.zeros((logits[0].shape[0], height, width), dtype=np.float32)
    weight = np.zeros((height, width), dtype=np.float32)
    for window, values in zip(windows, logits, strict=True):
        _, h, w = values.shape
        ramp = np.outer(_triangle(h), _triangle(w))
        top, left = window.top // LOGIT_STRIDE, window.left // LOGIT_STRIDE
        total[:, top : top + h, left : left + w] += values * ramp
        weight[top : top + h, left : left + w] += ramp
    return total / weight


def join_centres(
    shape: tuple[int, int], windows: list[Window], parts: list[NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Put together what each window keeps of its part (h, w) → ``shape``."""
    whole = np.empty(shape, dtype=np.uint8)
    for window, part in zip(windows, parts, strict=True):
        top, bottom, left, right = window.keep
        whole[top:bottom, left:right] = part[
            top - window.top : bottom - window.top, left - window.left : right - window.left
        ]
    return whole


def margin_of(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """How clear each decision is: the best class's probability less the second's, times 255.

    Probabilities are a softmax over the classes of logits (K, h, w), K ≥ 2 → (h, w), 0–255. The
    graph's own ``margin`` is the same function; float32 rounding may move it by one.
    """
    exponents = np.exp(logits - logits.max(0))
    second, best = np.partition(exponents, -2, axis=0)[-2:]
    return np.rint((best - second) / exponents.sum(0) * 255).astype(np.uint8)


def labels_of(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Upsample logits (K, h, w) by ``LOGIT_STRIDE``, bilinear, half-pixel centres; argmax → (H, W).

    The same function as the graph's own upsampling (align_corners=False). Pillow's
    triangle filter is that interpolation when it enlarges.
    """
    classes, height, width = logits.shape
    size = (width * LOGIT_STRIDE, height * LOGIT_STRIDE)
    best = np.full(size[::-1], -np.inf, dtype=np.float32)
    labels = np.zeros(size[::-1], dtype=np.uint8)
    for index in range(classes):
        plane = np.asarray(Image.fromarray(logits[index]).resize(size, Image.Resampling.BILINEAR))
        better = plane > best  # strictly: the first of equal classes wins, as in argmax
        labels[better] = index
        best[better] = plane[better]
    return labels


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


def _triangle(length: int) -> NDArray[np.float32]:
    """Weights that fall linearly from the middle to the border and never reach zero."""
    distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    return (distance / distance.max()).astype(np.float32)
