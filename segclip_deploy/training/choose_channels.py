"""Which channels to prune, for a given number of milliseconds: the least important per millisecond."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.latency_table import LatencyTable
from segclip_deploy.training.prunable import PrunableChannels

__all__ = ["Choice", "choose_channels"]


@dataclass(frozen=True)
class Choice:
    """Channels that stay.

    Attributes:
        kept: indices of them, by name of the place.
        saved_ms: what the latency table says that the network becomes faster by, milliseconds.
        reached: whether that is as much as was asked for; else nothing more can be pruned.
    """

    kept: Mapping[str, Sequence[int]]
    saved_ms: float
    reached: bool


def choose_channels(
    places: Sequence[PrunableChannels],
    importance: Mapping[str, NDArray[np.float64]],
    table: LatencyTable,
    *,
    saving_ms: float,
    multiple: int,
) -> Choice:
    """Prune where the least importance goes for a millisecond, until enough is saved.

    Each step takes one place to a smaller width: the one, of all places and widths, that loses the least
    importance per millisecond of the table. Times of places are added up. Where two of them share
    a layer, as in a bottleneck, that says more than is saved; so the result is measured, always.

    Args:
        importance: as of ``channel_importance``.
        table: milliseconds by place and width.
        saving_ms: how much to save.
        multiple: channel counts become multiples of it.
    """
    known = [place for place in places if place.name in table.layers]
    widths = {place.name: place.count for place in known}
    lost = {place.name: _lost(place, importance[place.name]) for place in known}
    saved = 0.0
    while saved < saving_ms:
        best: tuple[float, float, str, int] | None = None
        for place in known:
            now = widths[place.name]
            for width in place.widths(multiple):
                if not table.least(place.name) <= width < now:
                    continue
                gain = table.ms(place.name, now) - table.ms(place.name, width)
                if gain > 0:
                    cost = lost[place.name][width] - lost[place.name][now]
                    best = min(best or (np.inf, 0.0, "", 0), (cost / gain, gain, place.name, width))
        if best is None:
            break
        _, gain, name, width = best
        widths[name] = width
        saved += gain
    kept = {
        place.name: _strongest(place, importance[place.name], widths[place.name])
        for place in known
        if widths[place.name] < place.count
    }
    return Choice(kept, saved, saved >= saving_ms)


def _lost(place: PrunableChannels, importance: NDArray[np.float64]) -> dict[int, float]:
    """Importance that is gone, by channels that are left."""
    sums = np.concatenate([[0.0], np.cumsum(np.sort(importance))])
    units = place.count // place.unit
    return {(units - gone) * place.unit: float(sums[gone]) for gone in range(units + 1)}


def _strongest(place: PrunableChannels, importance: NDArray[np.float64], width: int) -> list[int]:
    """The most important channels, in their order; those of a unit together."""
    units = np.sort(np.argsort(-importance, kind="stable")[: width // place.unit])
    return [int(unit) * place.unit + at for unit in units for at in range(place.unit)]
