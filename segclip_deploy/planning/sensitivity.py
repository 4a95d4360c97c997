"""Sensitivity: what each block loses in INT8, alone and among all the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from segclip_deploy._optional import require
from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.artifacts.plan import FullEvaluation
from segclip_deploy.artifacts.records import Record
from segclip_deploy.planning.latency import BlockTimes
from segclip_deploy.planning.plan_evaluator import PlanEvaluator, ProxyScore
from segclip_deploy.runtime.profiling.picture import save_png

__all__ = ["BlockEffect", "heat_map", "sensitivity"]

_EXACT = 4
"""Blocks that are evaluated on the whole split: those that lose most on the tiles. The others move
mIoU by less than these, and each costs two passes over the split."""


class BlockEffect(Record, frozen=True):
    """What INT8 does to one block.

    Attributes:
        block: its name.
        only: only it in INT8, on a few tiles.
        excluded: everything but it in INT8, on a few tiles.
        only_exact, excluded_exact: the same on the whole split; None where it was not worth it.
        high_ms, int8_ms: time in it by the engine's own counters; None where no engine that
            runs here executes this scheme.
    """

    block: str
    only: ProxyScore
    excluded: ProxyScore
    only_exact: FullEvaluation | None
    excluded_exact: FullEvaluation | None
    high_ms: float | None
    int8_ms: float | None


def sensitivity(
    evaluator: PlanEvaluator,
    able: Sequence[str],
    times: BlockTimes | None,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[BlockEffect, ...]:
    """Measure every block, cheaply first, the most sensitive ones exactly.

    Args:
        evaluator: measures, and remembers.
        able: blocks that can be INT8.
        times: of the blocks, or None.
        report: called with (measurements done, measurements in all).
    """
    total = 2 * (len(able) + min(_EXACT, len(able)))
    cheap: dict[str, tuple[ProxyScore, ProxyScore]] = {}
    for index, block in enumerate(able):
        cheap[block] = evaluator.proxy([block]), evaluator.proxy(set(able) - {block})
        report(2 * (index + 1), total)
    worst = sorted(able, key=lambda block: cheap[block][0].sqnr_db)[:_EXACT]
    exact: dict[str, tuple[FullEvaluation, FullEvaluation]] = {}
    for index, block in enumerate(worst):
        exact[block] = evaluator.evaluate([block]), evaluator.evaluate(set(able) - {block})
        report(2 * (len(able) + index + 1), total)
    high, int8 = (times.high, times.int8) if times else ({}, {})
    effects = []
    for block in able:
        (only, excluded), (only_exact, excluded_exact) = (
            cheap[block],
            exact.get(block, (None, None)),
        )
        times_ms = high.get(block), int8.get(block)
        effects.append(BlockEffect(block, only, excluded, only_exact, excluded_exact, *times_ms))
    return tuple(effects)


def heat_map(effects: Sequence[BlockEffect], path: Path, *, title: str) -> None:
    """Draw a PNG: a row a block, columns for noise, flipped labels and mIoU.

    Each column has its own scale, dark is worse; a cell that was not measured is empty.
    """
    require("matplotlib", why="a heat map")
    from matplotlib.figure import Figure

    columns = (
        ("noise alone\n(−dB)", [-e.only.sqnr_db for e in effects], "{:.1f}", 1),
        ("labels flipped\nalone (%)", [100 * (1 - e.only.agreement) for e in effects], "{:.2f}", 1),
        ("labels won\nif excluded (%)", _gain(effects), "{:.2f}", 1),
        ("ΔmIoU\nalone (pt)", [_delta(e.only_exact) for e in effects], "{:+.2f}", -1),
        ("ΔmIoU\nif excluded (pt)", [_delta(e.excluded_exact) for e in effects], "{:+.2f}", -1),
    )
    figure = Figure(figsize=(9, 1.6 + 0.32 * len(effects)), dpi=130, layout="constrained")
    grid = figure.subplots(1, len(columns), sharey=True)
    for axes, (name, values, form, worse) in zip(np.atleast_1d(grid), columns, strict=True):
        column = worse * np.array(values, dtype=float)[:, None]  # more is worse
        axes.imshow(np.ma.masked_invalid(column), aspect="auto", cmap="YlOrRd")
        axes.set_title(name, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks(range(len(effects)), [e.block for e in effects], fontsize=9)
        low, high = np.nanmin(column, initial=np.inf), np.nanmax(column, initial=-np.inf)
        for row, value in enumerate(column[:, 0]):
            if np.isfinite(value):
                dark = high > low and (value - low) / (high - low) > 0.6
                axes.text(
                    0,
                    row,
                    form.format(values[row]).replace("-", "−"),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "black",
                )
    figure.suptitle(title, fontsize=10)
    with replace_file(path) as temporary:
        save_png(figure, temporary)


def _gain(effects: Sequence[BlockEffect]) -> list[float]:
    """How many more labels stay when a block is excluded than in the worst such case, percent."""
    least = min(e.excluded.agreement for e in effects)
    return [100 * (e.excluded.agreement - least) for e in effects]


def _delta(evaluation: FullEvaluation | None) -> float:
    """ΔmIoU, this − FP32, in points."""
    return np.nan if evaluation is None else 0.0 - 100 * evaluation.drop.value
