"""Windows joined with the whole image in memory: what the strips of the product must equal, bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.runtime.inference.windows import LOGIT_STRIDE, Window, triangle


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
        ramp = np.outer(triangle(h), triangle(w))
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
