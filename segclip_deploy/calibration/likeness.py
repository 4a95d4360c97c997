"""What tiles of a pool look like together, so that flight can tell a frame that is unlike them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.appearance import Appearance
from segclip_deploy.artifacts.records import convert
from segclip_deploy.calibration.tiles import TilePool
from segclip_deploy.runtime.inference.health import distance_from
from segclip_deploy.runtime.inference.tile_descriptors import DESCRIPTORS, features_of

__all__ = ["fit_appearance"]

_ERRORS = {"blue": 0.5, "red": 0.5}
_RATIO_ERROR = 0.1
"""What flight errs by, as it looks at a part of each window: levels, and shares of the others."""

_WITHIN = 99  # percent of the tiles of images that the cloud has not seen


def fit_appearance(pool: TilePool) -> Appearance | None:
    """The cloud of a pool's tiles; None where they are of one image.

    Distances are Mahalanobis' (1936): one combination of brightness, contrast, colour and texture can
    be unusual where none of them is by itself, as in fog. The limit is found by leaving images out: tiles of
    one image are alike, and would be too near to a cloud with themselves in it.
    """
    features = features_of(pool.descriptors)
    sources = np.unique([str(tile.source) for tile in pool.tiles], return_inverse=True)[1]
    if not sources.any():
        return None
    found = []
    for one in range(sources.max() + 1):
        apart = sources == one
        others = _cloud(features[~apart])
        found += [distance_from(others, row) for row in features[apart]]
    return _cloud(features, limit=float(np.percentile(found, _WITHIN)))


def _cloud(features: NDArray[np.float64], *, limit: float = 1.0) -> Appearance:
    """The cloud of (N, 6) features, wider by what flight errs by; ``limit`` is a distance of 1."""
    errors = np.array([_ERRORS.get(name, _RATIO_ERROR) for name in DESCRIPTORS])
    apart = features - features.mean(axis=0)
    covariance = apart.T @ apart / len(features) + np.diag(errors**2)
    metric = np.linalg.inv(covariance) / limit**2
    told = {"centre": _digits(features.mean(axis=0)), "metric": [_digits(row) for row in metric]}
    return convert(told, Appearance, noun="an appearance")


def _digits(values: NDArray[np.float64]) -> list[float]:
    """As a file keeps them."""
    return [float(f"{value:.8g}") for value in values]
