"""The tradeoff, mIoU over latency: differences that are not sure are drawn as none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segclip_deploy.runtime.profiling import palette
from segclip_deploy.tradeoff.comparison import EngineComparison
from segclip_deploy.tradeoff.plots import FRONTS_TITLE, LOOKS, figure_png, log_scale, new_figure
from segclip_deploy.tradeoff.row import Row, pareto_front

__all__ = ["tradeoff"]

_LEAST_POINTS, _LEAST_FACTOR = 2.0, 2.0
_BESIDE = tuple(
    (across * 9, up * lift, "left" if across > 0 else "right", "bottom" if up > 0 else "top")
    for lift in (6, 22, 38, 54)
    for up in (1, -1)
    for across in (1, -1)
)


@dataclass(frozen=True)
class _Mark:
    """Where an engine is drawn.

    Attributes:
        row: the engine.
        ms, miou: its place; that of the engine in the centre where the difference is not sure.
        ms_bounds, miou_bounds: 95 %, of mIoU those of the difference from the engine in the centre.
    """

    row: Row
    ms: float
    miou: float
    ms_bounds: tuple[float, float]
    miou_bounds: tuple[float, float]


def tradeoff(
    rows: Sequence[Row], rank: float, comparisons: Sequence[EngineComparison], *, best: Row | None
) -> bytes:
    """MIoU over latency: size is the file's, colour and shape the precision, the line the Pareto front.

    Differences from the engine that ``comparisons`` are of are drawn only where they are sure: else an
    engine stands at its height, or at its latency. The axes span two points and a factor of two at
    least, so that small differences look small.
    """
    figure, axes = new_figure(FRONTS_TITLE, 7, 5, dpi=200)
    marks = _marks(rows, rank, comparisons)
    for kind, (colour, shape) in LOOKS.items():
        mine = [mark for mark in marks if mark.row.precision.split()[0] == kind]
        if mine:
            places = [mark.ms for mark in mine], [100 * mark.miou for mark in mine]
            sizes = [40 + 8 * mark.row.bytes / 1e6 for mark in mine]
            axes.scatter(
                *places, s=sizes, color=colour, marker=shape, alpha=0.8, label=kind, zorder=3
            )
    for mark in marks:
        low, high = mark.ms_bounds
        axes.plot([low, high], [100 * mark.miou] * 2, color=palette.LINE, linewidth=1, zorder=2)
        low, high = mark.miou_bounds
        axes.plot([mark.ms] * 2, [100 * low, 100 * high], color=palette.LINE, linewidth=1, zorder=2)
    by_name = {mark.row.name: mark for mark in marks}
    front = [by_name[name] for name in pareto_front({m.row.name: (m.ms, m.miou) for m in marks})]
    steps = [mark.ms for mark in front], [100 * mark.miou for mark in front]
    axes.step(*steps, where="post", color=palette.MUTED, linewidth=1, label="Pareto front")
    if best is not None:
        place = by_name[best.name].ms, 100 * by_name[best.name].miou
        axes.scatter(*place, s=330, facecolors="none", edgecolors="black", label="recommended")
    _least_span(axes, marks)
    axes.set_xlabel(f"p{rank:g} latency of a frame, ms")
    axes.set_ylabel("mIoU, %")
    axes.grid(alpha=0.25, which="both")
    figure.legend(fontsize=9, loc="outside lower left", ncols=3, frameon=False)
    _name_marks(figure, axes, [mark for mark in marks if mark in front or _like_front(mark, front)])
    return figure_png(figure)


def _marks(
    rows: Sequence[Row], rank: float, comparisons: Sequence[EngineComparison]
) -> list[_Mark]:
    """Every engine at its place, beside the one in the centre; the fastest first."""
    by_name = {row.name: row for row in rows}
    centre = by_name[comparisons[0].engine] if comparisons else rows[0]
    own = centre.percentile(rank)
    found = [_Mark(centre, own, centre.miou, centre.interval(rank), (centre.miou, centre.miou))]
    for one in comparisons:
        row = by_name[one.other]
        # The drop is from the other engine to the centre: it lies above the centre by that much.
        low, high = centre.miou + one.drop.low, centre.miou + one.drop.high
        ms = row.percentile(rank) if one.speed_up.sure else own
        miou = row.miou if one.drop.sure else centre.miou
        found.append(_Mark(row, ms, miou, row.interval(rank), (low, high)))
    return sorted(found, key=lambda mark: (mark.ms, -mark.miou, mark.row.name))


def _like_front(mark: _Mark, front: Sequence[_Mark]) -> bool:
    """Whether an engine stands where one of the front does."""
    return any((mark.ms, mark.miou) == (other.ms, other.miou) for other in front)


def _least_span(axes: Any, marks: Sequence[_Mark]) -> None:
    """Axes that hold all bounds, and span two points of mIoU and a factor of two at least."""
    heights = [100 * bound for mark in marks for bound in (*mark.miou_bounds, mark.miou)]
    middle, half = (max(heights) + min(heights)) / 2, (max(heights) - min(heights)) / 2
    half = max(_LEAST_POINTS / 2, 1.15 * half)
    axes.set_ylim(middle - half, middle + half)
    log_scale(axes)
    times = [bound for mark in marks for bound in (*mark.ms_bounds, mark.ms)]
    centre = (max(times) * min(times)) ** 0.5
    factor = max(_LEAST_FACTOR**0.5, 1.15 * (max(times) / min(times)) ** 0.5)
    axes.set_xlim(centre / factor, centre * factor)


def _name_marks(figure: Any, axes: Any, marks: Sequence[_Mark]) -> None:
    """Names beside the marks, those of one place in one list, where no other name stands."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    texts: dict[tuple[float, float], list[str]] = {}
    for mark in marks:
        texts.setdefault((mark.ms, mark.miou), []).append(mark.row.name)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    frame = axes.get_window_extent()
    taken: list[Any] = []  # boxes of names
    for (ms, miou), names in texts.items():
        for dx, dy, across, up in _BESIDE:
            text = axes.annotate(
                "\n= ".join(names),
                (ms, 100 * miou),
                xytext=(dx, dy),
                textcoords="offset points",
                fontsize=9,
                ha=across,
                va=up,
                parse_math=False,  # a bundle may be called $x_{
            )
            box = text.get_window_extent(canvas.get_renderer())
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0
            if inside and box.y1 <= frame.y1 and not any(box.overlaps(other) for other in taken):
                break
            if (dx, dy, across, up) != _BESIDE[-1]:
                text.remove()
        taken.append(box)
