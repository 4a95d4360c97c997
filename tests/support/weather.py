"""Night, fog and motion blur, made from real tiles by published formulas."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["fog", "motion_blur", "night", "underexposed"]

Pixels = NDArray[np.uint8]


def night(pixels: Pixels, gamma: float) -> Pixels:
    """Low light: β · (α · I)^γ with α = 0.95 and β = 0.75, and noise as of a sensor.

    Lv, Li and Lu, Attention Guided Low-light Image Enhancement (IJCV 129, 2021): α in 0.9–1, β in
    0.5–1, γ in 1.5–5. The noise is Poisson's and Gauss's (Foi et al., IEEE TIP 17, 2008): of variance
    0.0005 I + 0.01².
    """
    light = 0.75 * (0.95 * pixels / 255.0) ** gamma
    noise = np.random.default_rng(0).standard_normal(light.shape)
    return _levels(light + noise * np.sqrt(0.0005 * light + 0.01**2))


def underexposed(pixels: Pixels, stops: float) -> Pixels:
    """So many stops less light, in the linear light of sRGB (IEC 61966-2-1); more where it is negative."""
    value = pixels / 255.0
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    light = np.minimum(1, light / 2.0**stops)
    return _levels(np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))


def fog(pixels: Pixels, height: float, visibility: float) -> Pixels:
    """Fog between a camera that looks down and the ground: I t + A (1 − t), t = exp(−3.912 d / V).

    Koschmieder (1924), with the contrast of 2 % at which a black object vanishes; airlight A = 230.

    Args:
        height: d, metres.
        visibility: V, metres.
    """
    through = np.exp(-3.912 * height / visibility)
    return _levels((pixels * through + 230.0 * (1 - through)) / 255)


def motion_blur(pixels: Pixels, length: int, degrees: float) -> Pixels:
    """The mean along a line: what a camera sees that moves at one speed while its shutter is open.

    Potmesil and Chakravarty, Modeling Motion Blur (SIGGRAPH 1983). ``length`` pixels are v · t / GSD: 15
    at 15 m/s, 1/100 s and 1 cm.
    """
    total = np.zeros(pixels.shape, np.float32)
    steps = np.linspace(-(length - 1) / 2, (length - 1) / 2, 2 * length - 1)
    down, right = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    for step in steps:
        total += np.roll(pixels, (round(step * down), round(step * right)), (0, 1))
    return _levels(total / len(steps) / 255)


def _levels(values: NDArray[np.floating]) -> Pixels:
    return np.clip(255 * values + 0.5, 0, 255).astype(np.uint8)
