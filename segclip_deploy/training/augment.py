"""Random crops of remote-sensing images: any scale, any heading, changing light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.errors import SegclipError
from segclip_deploy.training.image_cache import ImageCache

__all__ = ["Crop", "Crops"]

Crop = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""An image (crop, crop, 3) and its ground truth (crop, crop)."""

_POINT_GRID = 8
"""Crop centres are drawn from every 8th pixel: fine enough, and 64 times less to search."""


@dataclass(frozen=True)
class Crops(Dataset["Crop | SegclipError"]):
    """Augmented crops; each depends on the seed, the step and its index in the step alone.

    So it is the same one in whatever process it is drawn, and after a run was killed.

    Attributes:
        images: the training images.
        crop: side of a crop, pixels.
        seed: of all randomness here.
        zoom: least and greatest factor that a crop is scaled by, log-uniform.
    """

    images: ImageCache
    crop: int
    seed: int
    zoom: tuple[float, float] = (0.5, 2.0)

    def __getitem__(self, place: tuple[int, int]) -> Crop | SegclipError:
        """Image (crop, crop, 3) and ground truth (crop, crop) of (step, index); or why there is none."""
        try:
            return self._draw(np.random.default_rng((self.seed, *place)))
        except SegclipError as error:
            return error

    def _draw(self, rng: np.random.Generator) -> Crop:
        sample = self.images.read(_weighted(rng, self.images.areas))
        centre = _centre(rng, sample.ground_truth)
        scale = np.exp(rng.uniform(*np.log(self.zoom)))
        angle = rng.uniform(0, 2 * np.pi)
        mirror = rng.choice((-1.0, 1.0))
        # Output pixel (x, y) reads the source at centre + M · ((x, y) − crop / 2).
        cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
        a, b, d, e = mirror * cos, -sin, mirror * sin, cos
        half = self.crop / 2
        matrix = (a, b, centre[1] - (a + b) * half, d, e, centre[0] - (d + e) * half)
        size = (self.crop, self.crop)
        image = Image.fromarray(sample.pixels).transform(
            size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        ground_truth = Image.fromarray(sample.ground_truth).transform(
            size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=IGNORE_INDEX
        )
        return _relight(rng, np.asarray(image)), np.asarray(ground_truth)


def _weighted(rng: np.random.Generator, weights: tuple[int, ...]) -> int:
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
