"""What the tiles that a model was calibrated on look like, as it travels with an engine."""

from __future__ import annotations

from segclip_deploy.artifacts.records import Record

__all__ = ["Appearance", "TileFeatures"]

TileFeatures = tuple[float, float, float, float, float, float]
"""A number for each descriptor of tiles."""


class Appearance(Record, frozen=True):
    """A cloud of tiles in the space of their features.

    Attributes:
        centre: mean of each feature.
        metric: inverse of the features' covariance, row by row, scaled: 99 % of the tiles are nearer
            to the centre than 1, each image held against the cloud of all others.
    """

    centre: TileFeatures
    metric: tuple[
        TileFeatures, TileFeatures, TileFeatures, TileFeatures, TileFeatures, TileFeatures
    ]
