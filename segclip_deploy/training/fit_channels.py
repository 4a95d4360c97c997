"""Prune a network until it is as fast as is wanted, by measuring what was pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.training.choose_channels import choose_channels
from segclip_deploy.training.prunable import PrunableChannels, find_prunable_channels
from segclip_deploy.training.prune import prune
from segclip_deploy.training.stopwatch import Stopwatch, Timing

__all__ = ["CLOSE", "ChannelFitter", "FittedNetwork", "clear_of_noise"]

CLOSE = 1.02
"""Times within 2 % of each other are the same: the difference is noise."""

_SPARE = 1.05
"""A network may be faster than wanted by 5 %."""

_ATTEMPTS = 5


@dataclass(frozen=True)
class FittedNetwork:
    """A pruned network.

    Attributes:
        model: it, not tuned.
        timing: of it.
        reached: whether it is as fast as was wanted.
    """

    model: SegCLIP
    timing: Timing
    reached: bool


class ChannelFitter:
    """Prunes networks of one parent.

    Args:
        watch: of the parent.
    """

    def __init__(self, watch: Stopwatch) -> None:
        self.watch, self.table = watch, watch.table
        self.multiple = watch.target.scheme.rules.channels

    def places(self, model: SegCLIP) -> list[PrunableChannels]:
        """The inner channels of a network of this parent."""
        return find_prunable_channels(model, self.watch.spec.height, self.watch.spec.width)

    def smallest(self, parent: SegCLIP) -> Timing:
        """The time of the parent without all that can be pruned."""
        known = [place for place in self.watch.places if place.name in self.table.layers]
        kept = {place.name: range(self._narrowest(place)) for place in known}
        return self.watch.time(prune(parent, kept))

    def fit(
        self,
        model: SegCLIP,
        importance: Mapping[str, NDArray[np.float64]],
        *,
        now: float,
        wanted: Callable[[float], float],
    ) -> FittedNetwork:
        """Prune a network until its time by its parent's is what is wanted, or nothing is left to prune.

        The table adds up the times of places, and a network saves more or less. What it does save says how
        much to ask of the table next. A network that is faster than needed has lost accuracy for nothing.

        Args:
            importance: of the network's channels.
            now: its own time by its parent's.
            wanted: from the parent's milliseconds, measured beside it, to the ratio to reach. One within the
                noise is taken for the nearest that is not.
        """
        places = self.places(model)
        saving = (now - clear_of_noise(wanted(self.table.network_ms))) * self.table.network_ms
        best: FittedNetwork | None = None
        for _ in range(_ATTEMPTS):
            choice = choose_channels(
                places, importance, self.table, saving_ms=saving, multiple=self.multiple
            )
            pruned = prune(model, choice.kept)
            timing = self.watch.time(pruned)
            goal = clear_of_noise(wanted(timing.parent_ms))
            fitted = FittedNetwork(pruned, timing, reached=timing.ratio <= CLOSE * goal)
            best = max((best or fitted, fitted), key=_preferred)
            if not choice.reached and not fitted.reached:
                break
            if fitted.reached and timing.ratio * _SPARE >= goal:
                break
            saved = max(now - timing.ratio, 1e-6)
            saving *= float(np.clip(1.02 * (now - goal) / saved, 0.5, 2.0))
        assert best is not None  # there was an attempt
        return best

    def _narrowest(self, place: PrunableChannels) -> int:
        return max(place.widths(self.multiple)[-1], self.table.least(place.name))


def clear_of_noise(ratio: float) -> float:
    """The time by the parent's to aim at: what comes within noise of it is still faster than the parent.

    clear_of_noise(0.5)  # 0.5
    clear_of_noise(0.999)  # 0.961
    """
    return min(ratio, CLOSE**-2)


def _preferred(fitted: FittedNetwork) -> tuple[bool, float]:
    """Fast enough, and no faster than it has to be; else as fast as it can be."""
    ratio = fitted.timing.ratio
    return fitted.reached, ratio if fitted.reached else -ratio
