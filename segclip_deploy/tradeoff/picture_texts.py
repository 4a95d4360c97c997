"""What the report's pictures show, in words, for who cannot see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    return {
        "tradeoff": f"mIoU over p{rank:g} latency, one mark an engine. "
        + " ".join(f"{r.name}: {r.percentile(rank):.1f} ms, {100 * r.miou:.2f} %." for r in rows)
        + f" {told}",
        "stages": "Bars: median milliseconds of a frame by stage. "
        + " ".join(f"{row.name}: {_stages(row)}." for row in rows),
        "latencies": "The spread of each engine's latency. "
        + " ".join(
            f"{r.name}: p50 {r.percentile(50):.1f} ms, p{rank:g} {r.percentile(rank):.1f} ms."
            for r in rows
        ),
        "classes": "A table of colours: points of IoU against FP32 by class. "
        + " ".join(f"{row.name}: {_changes(row, references[row.name])}." for row in rows),
        "bounds": "Hatched bars: lower bounds that were computed, not measured. "
        + " ".join(
            f"{BOARDS[b.board].title}, {b.precision}, {b.bundle}: at least {b.ms:.2f} ms."
            for b in bounds
        ),
    }


def _stages(row: Row) -> str:
    return ", ".join(f"{stage} {ms:.1f}" for stage, ms in row.stages.items())


def _changes(row: Row, reference: Row) -> str:
    changes = []
    for name, iou in row.iou.items():
        before = reference.iou[name]
        if iou is None or before is None:
            changes.append(f"{name} absent")
        else:
            changes.append(f"{name} {100 * (iou - before):+.2f}")
    return ", ".join(changes)
