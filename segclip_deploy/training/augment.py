"""Random crops of remote-sensing images: any scale, any heading, changing light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.evaluation.dataset import Sample

__all__ = ["CropSampler"]

_POINT_GRID = 8
"""Crop centres are drawn from every 8th pixel: fine enough, and 64 times less to search."""


@dataclass(frozen=True)
class CropSampler:
    """Draws batches of augmented crops; a batch depends on the seed and the step alone.

    Attributes:
        samples: the training images, in memory.
        crop: side of a crop, pixels.
        batch: crops per step.
        seed: of all randomness here.
        scale: range of the random scale factor, log-uniform.
    """

    samples: tuple[Sample, ...]
    crop: int
    batch: int
    seed: int
    scale: tuple[float, float] = (0.5, 2.0)

    def draw(self, step: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Images (B, crop, crop, 3) and their ground truth (B, crop, crop) of a step."""
        pairs = [
            self._crop(np.random.default_rng((self.seed, step, item))) for item in range(self.batch)
        ]
        images, masks = zip(*pairs, strict=True)
        return np.stack(images), np.stack(masks)

    def _crop(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        sample = self.samples[_weighted(rng, [s.ground_truth.size for s in self.samples])]
        centre = _centre(rng, sample.ground_truth)
        scale = np.exp(rng.uniform(*np.log(self.scale)))
        angle = rng.uniform(0, 2 * np.pi)
        mirror = rng.choice((-1.0, 1.0))
        # Output pixel (x, y) reads the source at centre + M · ((x, y) − crop / 2).
        cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
        a, b, d, e = mirror * cos, -sin, mirror * sin, cos
        half = self.crop / 2
        matrix = (a, b, centre[1] - (a + b) * half, d, e, centre[0] - (d + e) * half)
        size = (self.crop, self.crop)
        image = Image.fromarray(sample.frame.pixels).transform(
            size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        ground_truth = Image.fromarray(sample.ground_truth).transform(
            size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=IGNORE_INDEX
        )
        return _relight(rng, np.asarray(image)), np.asarray(ground_truth)


def _weighted(rng: np.random.Generator, weights: list[int]) -> int:
    shares = np.asarray(weights, dtype=np.float64)
    return int(rng.choice(len(weights), p=shares / shares.sum()))


def _centre(rng: np.random.Generator, ground_truth: NDArray[np.uint8]) -> tuple[int, int]:
    """A random point (y, x); half of the time one of a class drawn at random, so that rare ones occur."""
    if rng.random() < 0.5:
        coarse = ground_truth[::_POINT_GRID, ::_POINT_GRID]
        present = np.unique(coarse[coarse != IGNORE_INDEX])
        if present.size:
            points = np.argwhere(coarse == rng.choice(present))
            y, x = points[rng.integers(len(points))] * _POINT_GRID
            return int(y), int(x)
    return int(rng.integers(ground_truth.shape[0])), int(rng.integers(ground_truth.shape[1]))


def _relight(rng: np.random.Generator, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Random brightness, contrast, saturation and white balance."""
    x = pixels.astype(np.float32)
    grey = x.mean(-1, keepdims=True)
    x = grey + rng.uniform(0.7, 1.3) * (x - grey)
    x = x.mean() + rng.uniform(0.75, 1.25) * (x - x.mean())
    x = x * rng.uniform(0.9, 1.1, size=3).astype(np.float32) + rng.uniform(-25, 25)
    return np.clip(x, 0, 255).astype(np.uint8)
