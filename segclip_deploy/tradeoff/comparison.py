"""By how much one engine wins over another, and whether that is sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from segclip_deploy.artifacts.plan import Drop
from segclip_deploy.artifacts.records import Record
from segclip_deploy.evaluation.accuracy import Accuracy, miou_drop
from segclip_deploy.tradeoff.row import Row

__all__ = ["EngineComparison", "SpeedUp", "compare_with", "speed_up_bounds"]


class SpeedUp(Record, frozen=True):
    """How many times as fast an engine is as another.

    Attributes:
        value: of all frames.
        low, high: 95 % bounds, from resampling the frames of both.
    """

    value: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the bounds leave one out: more frames would show the same side."""
        return self.low > 1 or self.high < 1


class EngineComparison(Record, frozen=True):
    """An engine against another one, on the same images and frames.

    Attributes:
        engine: name of the row.
        other: name of the row that it is compared with.
        speed_up: of the engine over the other, at the percentile that counts.
        drop: of mIoU, from the other to the engine: negative where the engine is more accurate.
    """

    engine: str
    other: str
    speed_up: SpeedUp
    drop: Drop

    @property
    def told(self) -> str:
        """In words: ``1.06× as fast as B [0.98, 1.15] (not sure), ΔmIoU +0.41 [+0.20, +0.66] points (sure)``."""
        speed, drop = self.speed_up, self.drop
        return (
            f"{speed.value:.2f}× as fast as {self.other} [{speed.low:.2f}, {speed.high:.2f}] "
            f"({_sure(speed.sure)}), "
            f"ΔmIoU {drop.delta} {drop.delta_interval} points ({_sure(drop.sure)})"
        )


def compare_with(
    engine: Row, rows: Sequence[Row], accuracies: Mapping[str, Accuracy], rank: float
) -> tuple[EngineComparison, ...]:
    """Compare an engine with each of the other rows.

    The bounds of ΔmIoU are those of ``miou_drop``, paired by image.

    Args:
        engine: one of the rows.
        rows: all of them.
        accuracies: by name of the row, on the same images.
        rank: percentile of latency that counts.
    """
    found = []
    for other in rows:
        if other.name == engine.name:
            continue
        low, high = speed_up_bounds(engine, other, rank)
        value = other.percentile(rank) / engine.percentile(rank)
        found.append(
            EngineComparison(
                engine=engine.name,
                other=other.name,
                speed_up=SpeedUp(value=value, low=low, high=high),
                drop=miou_drop(accuracies[other.name], accuracies[engine.name]),
            )
        )
    return tuple(found)


def speed_up_bounds(engine: Row, other: Row, rank: float) -> tuple[float, float]:
    """95 % bounds of how many times as fast an engine is as another, at a percentile of latency.

    A percentile bootstrap (Efron & Tibshirani, 1993): frames are drawn with replacement, of each engine
    by themselves, since a sweep that went on later did not time both side by side.
    """
    times = other.resampled(rank, seed=1) / engine.resampled(rank, seed=0)
    low, high = np.percentile(times, [2.5, 97.5])
    return float(low), float(high)


def _sure(sure: bool) -> str:
    return "sure" if sure else "not sure"
