"""What the report's pictures show, in words, for who cannot see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from segclip_deploy.tradeoff.plots import points_gained
from segclip_deploy.tradeoff.roofline import BOARDS, LowerBound
from segclip_deploy.tradeoff.row import Row

__all__ = ["describe_pictures"]


def describe_pictures(
    rows: Sequence[Row],
    rank: float,
    references: Mapping[str, Row],
    *,
    best: Row | None,
    bounds: Sequence[LowerBound],
) -> dict[str, str]:
    """An alternative text for each picture, by its name; every figure that is drawn is in it.

    Args:
        rows: in the order of their latency.
        rank: the percentile of latency that counts.
        references: the FP32 engine of each row.
        best: the engine that is recommended.
        bounds: of boards that are not here.
    """
    told = f"Recommended: {best.name}." if best else "None is recommended."
    marks = [(r.name, f"{r.percentile(rank):.1f} ms, {100 * r.miou:.2f} %") for r in rows]
    spreads = [
        (r.name, f"p50 {r.percentile(50):.1f} ms, p{rank:g} {r.percentile(rank):.1f} ms")
        for r in rows
    ]
    least = [
        (f"{BOARDS[b.board].title}, {b.precision}, {b.bundle}", f"at least {b.ms:.2f} ms")
        for b in bounds
    ]
    return {
        "tradeoff": f"{_listed(f'mIoU over p{rank:g} latency, one mark an engine.', marks)} {told}",
        "stages": _listed(
            "Bars: median milliseconds of a frame by stage.", [(r.name, _stages(r)) for r in rows]
        ),
        "latencies": _listed("The spread of each engine's latency.", spreads),
        "classes": _listed(
            "A table of colours: points of IoU against FP32 by class.",
            [(r.name, _changes(r, references[r.name])) for r in rows],
        ),
        "bounds": _listed("Hatched bars: lower bounds that were computed, not measured.", least),
    }


def _listed(title: str, told: Sequence[tuple[str, str]]) -> str:
    return " ".join([title, *(f"{name}: {what}." for name, what in told)])


def _stages(row: Row) -> str:
    return ", ".join(f"{stage} {ms:.1f}" for stage, ms in row.stages.items())


def _changes(row: Row, reference: Row) -> str:
    changes = {name: points_gained(iou, reference.iou[name]) for name, iou in row.iou.items()}
    return ", ".join(
        f"{name} absent" if np.isnan(points) else f"{name} {points:+.2f}"
        for name, points in changes.items()
    )
