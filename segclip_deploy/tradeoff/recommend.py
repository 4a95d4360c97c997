"""Which engine to fly: the fastest that keeps every limit, or the limit that stands in the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from segclip_deploy.tradeoff.row import Row

__all__ = ["FlightLimits", "Recommendation", "recommend"]


@dataclass(frozen=True)
class FlightLimits:
    """What an engine must keep; None: no limit.

    Attributes:
        latency_ms: a frame, at ``percentile``.
        percentile: for example 99.
        miou_drop: against FP32, shares of 1, of the point estimate.
        class_iou: at least, by class.
        joules: a frame.
    """

    latency_ms: float | None = None
    percentile: float = 99.0
    miou_drop: float | None = None
    class_iou: Mapping[str, float] = field(default_factory=dict)
    joules: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """The answer.

    Attributes:
        row: to fly; None where none fits.
        why: in words, with figures.
        nearest: where none fits, the row that misses least.
        next: the fastest other row that keeps the limits; None where there is none.
    """

    row: Row | None
    why: str
    nearest: Row | None = None
    next: Row | None = None


@dataclass(frozen=True)
class _Miss:
    """A limit that a row does not keep.

    Attributes:
        excess: how far beyond, relative to the limit.
        told: in words.
    """

    excess: float
    told: str


def recommend(rows: Sequence[Row], limits: FlightLimits) -> Recommendation:
    """The fastest row that keeps every limit; all passed verification, or were no rows.

    Of two within 2 % of each other the more accurate one: such a difference is noise.
    """
    rank = limits.percentile
    if not rows:
        return Recommendation(None, "no engine passed verification")
    misses = {row.name: _misses(row, limits) for row in rows}
    keeping = [row for row in rows if not misses[row.name]]
    if not keeping:
        nearest = min(rows, key=lambda row: max(miss.excess for miss in misses[row.name]))
        told = ", ".join(miss.told for miss in misses[nearest.name])
        return Recommendation(None, f"none fits; nearest is {nearest.name}: {told}", nearest)
    fastest = min(row.percentile(rank) for row in keeping)
    close = [row for row in keeping if row.percentile(rank) <= 1.02 * fastest]
    best = max(close, key=lambda row: (row.miou, -row.percentile(rank)))
    drop = best.drop
    why = (
        f"p{rank:g} {best.percentile(rank):.1f} ms a frame, mIoU {best.miou:.4f}, "
        f"ΔmIoU {drop.delta} {drop.delta_interval} points; "
        f"the fastest of {len(keeping)} that keep the limits, of {len(rows)} measured"
    )
    others = [row for row in keeping if row is not best]
    following = min(others, key=lambda row: row.percentile(rank), default=None)
    return Recommendation(best, why, next=following)


def _misses(row: Row, limits: FlightLimits) -> list[_Miss]:
    found = []

    def at_most(what: str, value: float | None, limit: float | None, unit: str) -> None:
        if limit is None:
            return
        if value is None:
            found.append(_Miss(float("inf"), f"{what} could not be measured here"))
        elif value > limit:
            excess = (value - limit) / max(abs(limit), 1e-9)
            found.append(_Miss(excess, f"{what} {value:.4g}{unit}, at most {limit:.4g}{unit}"))

    at_most(f"p{limits.percentile:g}", row.percentile(limits.percentile), limits.latency_ms, " ms")
    points = None if limits.miou_drop is None else 100 * limits.miou_drop
    at_most("mIoU drop", 100 * row.drop.value, points, " points")
    at_most("energy", row.joules, limits.joules, " J")
    for name, least in limits.class_iou.items():
        value = row.iou.get(name)
        if value is None:
            found.append(_Miss(float("inf"), f"{name} is not in the evaluation images"))
        elif value < least:
            told = f"IoU of {name} {value:.3f}, at least {least:.3f}"
            found.append(_Miss((least - value) / least, told))
    return found
