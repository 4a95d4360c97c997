"""Sensitivity: what each block loses in INT8, alone and among all the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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

    Dark is worse. A ΔmIoU whose 95 % bounds hold zero is grey: nobody knows its sign. The colours of a
    column span ``least`` at least, so that small numbers stay pale. What was not measured is empty.
    """
    require("matplotlib", why="a heat map")
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    columns = _columns(effects)
    figure = Figure(figsize=(7, 1.5 + 0.31 * len(effects)), dpi=200, layout="constrained")
    grid = figure.subplots(1, len(columns), sharey=True)
    for axes, column in zip(np.atleast_1d(grid), columns, strict=True):
        shades = column.shades()
        image = colormaps["YlOrRd"](np.nan_to_num(shades))[:, None]
        image[np.isnan(shades)] = (1, 1, 1, 1)
        image[column.unsure] = _GREY
        axes.imshow(image, aspect="auto")
        axes.set_title(column.title, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks(range(len(effects)), [e.block for e in effects], fontsize=8)
        axes.tick_params(length=0)
        for row, text in enumerate(column.texts):
            dark = shades[row] > 0.6 and not column.unsure[row]
            colour = "white" if dark else "black"
            axes.text(0, row, text, ha="center", va="center", fontsize=6.5, color=colour)
    figure.suptitle(
        f"What INT8 costs in each block: darker is worse\n{title}; grey: the 95 % bounds hold zero",
        fontsize=9,
    )
    with replace_file(path) as temporary:
        save_png(figure, temporary)


_GREY = (0.87, 0.87, 0.87, 1)
_QUIET_DB = 60.0  # of signal to noise: from here on noise moves hardly any label
_LEAST_DB, _LEAST_PERCENT, _LEAST_POINTS = 40.0, 2.0, 2.0


@dataclass(frozen=True)
class _Column:
    """What is drawn of all blocks.

    Attributes:
        title: above it.
        texts: in the cells; empty where nothing was measured.
        harm: more is worse, and none is 0; NaN where nothing was measured.
        darkest: harm of the darkest colour.
        unsure: cells whose bounds hold zero.
    """

    title: str
    texts: Sequence[str]
    harm: NDArray[np.float64]
    darkest: float
    unsure: NDArray[np.bool_]

    def shades(self) -> NDArray[np.float64]:
        """Colours, from 0, no harm, to 1; NaN where nothing was measured."""
        return np.clip(self.harm / self.darkest, 0, 1)


def _columns(effects: Sequence[BlockEffect]) -> tuple[_Column, ...]:
    noise = [effect.only.sqnr_db for effect in effects]
    flipped = np.array([100 * (1 - effect.only.agreement) for effect in effects])
    least = min(effect.excluded.agreement for effect in effects)
    won = np.array([100 * (effect.excluded.agreement - least) for effect in effects])
    alone = [effect.only_exact for effect in effects]
    excluded = [effect.excluded_exact for effect in effects]
    lost = np.array([*map(_points_lost, alone), *map(_points_lost, excluded)])
    points = float(np.nanmax(lost, initial=_LEAST_POINTS))
    percent = float(max(_LEAST_PERCENT, flipped.max(), won.max()))
    sure = np.zeros(len(effects), bool)
    quiet = _QUIET_DB - np.array(noise)
    return (
        _Column(
            "noise alone\n(−dB)",
            [f"−{value:.1f}" for value in noise],
            quiet,
            max(_LEAST_DB, float(quiet.max())),
            sure,
        ),
        _Column("labels flipped\nalone (%)", [f"{v:.2f}" for v in flipped], flipped, percent, sure),
        _Column("labels won\nif excluded (%)", [f"{v:.2f}" for v in won], won, percent, sure),
        _of_evaluations("ΔmIoU\nalone (pt)", alone, points),
        _of_evaluations("ΔmIoU\nif excluded (pt)", excluded, points),
    )


def _of_evaluations(
    title: str, evaluations: Sequence[FullEvaluation | None], darkest: float
) -> _Column:
    """ΔmIoU, this − FP32, in points, each with its bounds."""
    drops = [None if one is None else one.drop for one in evaluations]
    return _Column(
        title,
        ["" if drop is None else f"{drop.delta}\n{drop.delta_interval}" for drop in drops],
        np.array([_points_lost(one) for one in evaluations]),
        darkest,
        np.array([drop is not None and not drop.sure for drop in drops]),
    )


def _points_lost(evaluation: FullEvaluation | None) -> float:
    return np.nan if evaluation is None else 100 * evaluation.drop.value
