"""What a tile looks like, in a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageStat

__all__ = ["DESCRIPTORS", "TileDescriptors", "correlation", "describe", "features_of"]

DESCRIPTORS = ("luma", "luma contrast", "blue", "red", "fine texture", "coarse texture")
"""Mean and standard deviation of luma; mean colour differences Cb and Cr, which brightness does not
move; mean absolute difference of neighbouring luma pixels, at full size and at a quarter."""

_COARSE = 4
_RATIOS = [index for index, name in enumerate(DESCRIPTORS) if name not in ("blue", "red")]


@dataclass(frozen=True)
class TileDescriptors:
    """What one tile looks like, in levels of 8 bits.

    Attributes:
        deviation: standard deviation of the channel that varies most.
        steps: mean squared luma difference of neighbours, (down, right).
        values: one for each of ``DESCRIPTORS``.
    """

    deviation: float
    steps: tuple[float, float]
    values: tuple[float, ...]


def describe(pixels: NDArray[np.uint8]) -> TileDescriptors:
    """Describe a tile (H, W, 3), at least 8 pixels each way."""
    image = Image.fromarray(pixels)
    ycbcr = image.convert("YCbCr")
    statistics = ImageStat.Stat(ycbcr)
    luma = ycbcr.getchannel("Y")
    steps, fine = _differences(luma)
    _, coarse = _differences(luma.reduce(_COARSE))
    mean, blue, red = statistics.mean
    return TileDescriptors(
        deviation=max(ImageStat.Stat(image).stddev),
        steps=steps,
        values=(mean, statistics.stddev[0], blue, red, fine, coarse),
    )


def correlation(parts: Sequence[TileDescriptors]) -> float:
    """Correlation of neighbouring luma pixels of an image cut into equal parts.

    The larger of the two directions; 1 for an image of one colour. From
    E[(a − b)²] = 2 var (1 − ρ).
    """
    mean, deviation = np.array([part.values[:2] for part in parts]).T
    variance = float(np.mean(deviation**2) + np.var(mean))
    steps = np.mean([part.steps for part in parts], axis=0)
    return 1.0 if variance == 0 else float(1 - steps.min() / (2 * variance))


def features_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Descriptors as distances are taken of them: brightness, contrast and texture count by their ratios.

    Half a level is the least that 8 bits tell.

    Args:
        values: (..., 6), as ``DESCRIPTORS`` names them.

    Returns:
        (..., 6): natural logarithms, but of the two colours.
    """
    found = np.array(values, np.float64)
    found[..., _RATIOS] = np.log(np.maximum(found[..., _RATIOS], 0.5))
    return found


def _differences(luma: Image.Image) -> tuple[tuple[float, float], float]:
    """Mean squared difference of neighbours (down, right), and mean absolute difference."""
    values = np.asarray(luma, dtype=np.float32)
    down, right = (np.diff(values, axis=axis) for axis in (0, 1))
    squared = (float(np.mean(down * down)), float(np.mean(right * right)))
    return squared, float(np.abs(down).mean() + np.abs(right).mean()) / 2
