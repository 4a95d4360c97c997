"""The report's pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segclip_deploy._optional import require
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.runtime.inference.drawing import overlay
from segclip_deploy.runtime.profiling.picture import save_png
from segclip_deploy.tradeoff.comparison import EngineComparison
from segclip_deploy.tradeoff.roofline import BOARDS, LowerBound
from segclip_deploy.tradeoff.row import Row, pareto_front

__all__ = ["class_changes", "latencies", "lower_bounds", "panel", "stage_bars", "tradeoff"]

# Colours that colour-blind readers can tell apart: Okabe & Ito, Color Universal Design, 2008.
_LOOKS = {
    "fp32": ("#0072b2", "o"),
    "fp16": ("#009e73", "s"),
    "int8": ("#d55e00", "^"),
    "planned": ("#cc79a7", "D"),
}
_STAGES = {"prepare": "#56b4e9", "infer": "#0072b2", "postprocess": "#e69f00"}

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
    figure, axes = _figure(7, 4.8, dpi=200)
    marks = _marks(rows, rank, comparisons)
    for kind, (colour, shape) in _LOOKS.items():
        mine = [mark for mark in marks if mark.row.precision.split()[0] == kind]
        if mine:
            places = [mark.ms for mark in mine], [100 * mark.miou for mark in mine]
            sizes = [40 + 8 * mark.row.bytes / 1e6 for mark in mine]
            axes.scatter(
                *places, s=sizes, color=colour, marker=shape, alpha=0.8, label=kind, zorder=3
            )
    for mark in marks:
        low, high = mark.ms_bounds
        axes.plot([low, high], [100 * mark.miou] * 2, color="#868e96", linewidth=1, zorder=2)
        low, high = mark.miou_bounds
        axes.plot([mark.ms] * 2, [100 * low, 100 * high], color="#868e96", linewidth=1, zorder=2)
    by_name = {mark.row.name: mark for mark in marks}
    front = [by_name[name] for name in pareto_front({m.row.name: (m.ms, m.miou) for m in marks})]
    steps = [mark.ms for mark in front], [100 * mark.miou for mark in front]
    axes.step(*steps, where="post", color="#495057", linewidth=1, label="Pareto front")
    if best is not None:
        place = by_name[best.name].ms, 100 * by_name[best.name].miou
        axes.scatter(*place, s=330, facecolors="none", edgecolors="black", label="recommended")
    _least_span(axes, marks)
    axes.set_xlabel(f"p{rank:g} latency of a frame, ms")
    axes.set_ylabel("mIoU, %")
    axes.grid(alpha=0.25, which="both")
    figure.legend(fontsize=9, loc="outside upper left", ncols=3, frameon=False)
    _name_marks(figure, axes, [mark for mark in marks if mark in front or _like_front(mark, front)])
    return _png(figure)


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
    _log_scale(axes)
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
            )
            box = text.get_window_extent(canvas.get_renderer())
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0
            if inside and box.y1 <= frame.y1 and not any(box.overlaps(other) for other in taken):
                break
            if (dx, dy, across, up) != _BESIDE[-1]:
                text.remove()
        taken.append(box)


def lower_bounds(bounds: Sequence[LowerBound]) -> bytes:
    """Milliseconds that no engine can go below, hatched and grey: nothing of it was measured."""
    names = [f"{BOARDS[b.board].title}, {b.precision}, {b.bundle}" for b in bounds]
    figure, axes = _figure(9, 0.9 + 0.26 * len(bounds))
    axes.barh(names, [b.ms for b in bounds], facecolor="#f1f3f5", edgecolor="#adb5bd", hatch="///")
    for index, one in enumerate(bounds):
        told = f"  ≥ {one.ms:.2f}"
        axes.text(one.ms, index, told, va="center", fontsize=8, color="#868e96", style="italic")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("ms a window, a lower bound: computed, not measured")
    return _png(figure)


def stage_bars(rows: Sequence[Row]) -> bytes:
    """Where the milliseconds go, the fastest row on top."""
    ordered = sorted(rows, key=lambda row: row.percentile(50), reverse=True)
    figure, axes = _figure(9, 0.9 + 0.32 * len(ordered))
    left = np.zeros(len(ordered))
    for stage, colour in _STAGES.items():
        values = np.array([row.stages[stage] for row in ordered])
        axes.barh([row.name for row in ordered], values, left=left, color=colour, label=stage)
        left += values
    axes.set_xlabel("median ms a frame")
    axes.tick_params(axis="y", labelsize=8)
    axes.legend(fontsize=8)
    return _png(figure)


def latencies(rows: Sequence[Row], rank: float) -> bytes:
    """The distribution of each row's latency; the tick is its percentile."""
    ordered = sorted(rows, key=lambda row: row.percentile(50), reverse=True)
    figure, axes = _figure(9, 0.9 + 0.36 * len(ordered))
    parts = axes.violinplot(
        [list(row.frame_ms) for row in ordered], orientation="horizontal", showextrema=False
    )
    for body, row in zip(parts["bodies"], ordered, strict=True):
        body.set_facecolor(_LOOKS[row.precision.split()[0]][0])
    for index, row in enumerate(ordered, start=1):
        axes.plot([row.percentile(rank)] * 2, [index - 0.25, index + 0.25], color="#212529")
    axes.set_yticks(range(1, len(ordered) + 1), [row.name for row in ordered], fontsize=8)
    _log_scale(axes)
    axes.set_xlabel(f"ms a frame (tick: p{rank:g})")
    return _png(figure)


def class_changes(rows: Sequence[Row], references: Mapping[str, Row]) -> bytes:
    """Points of IoU that each class gains or loses against FP32."""
    names = list(rows[0].iou)
    values = np.array(
        [[_points(row.iou[n], references[row.name].iou[n]) for n in names] for row in rows]
    )
    figure, axes = _figure(2 + 1.1 * len(names), 1 + 0.34 * len(rows))
    limit = max(0.5, float(np.nanmax(np.abs(values))))
    image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=20, fontsize=8)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
    for (y, x), value in np.ndenumerate(values):
        told = "absent" if np.isnan(value) else f"{value:+.2f}"
        strong = abs(value) > 0.6 * limit
        axes.text(x, y, told, ha="center", va="center", fontsize=7,
                  color="white" if strong else "black")  # fmt: skip
    figure.colorbar(image, label="points of IoU")
    return _png(figure)


def panel(
    pixels: NDArray[np.uint8],
    ground_truth: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    vocabulary: Vocabulary,
    titles: Sequence[str],
    side: int = 340,
) -> bytes:
    """Image, ground truth, FP32, the other, and where these two disagree, side by side."""
    palette = np.vstack([vocabulary.palette, np.zeros((256 - len(vocabulary.palette), 3))])
    palette = palette.astype(np.uint8)
    dimmed = overlay(pixels, np.zeros_like(labels), np.array([[20, 20, 20]], np.uint8))
    differs = np.array(dimmed)
    differs[reference != labels] = (255, 60, 60)
    pictures = [pixels, palette[ground_truth], palette[reference], palette[labels], differs]
    height = max(1, round(side * pixels.shape[0] / pixels.shape[1]))
    font = ImageFont.load_default(size=16)
    sheet = Image.new("RGB", (5 * (side + 6), height + 24), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        left = index * (side + 6)
        draw.text((left + 2, 2), title, fill="black", font=font)
        kind = Image.Resampling.LANCZOS if index in (0, 4) else Image.Resampling.NEAREST
        sheet.paste(Image.fromarray(picture).resize((side, height), kind), (left, 24))
    buffer = BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _points(value: float | None, before: float | None) -> float:
    return np.nan if value is None or before is None else 100 * (value - before)


def _log_scale(axes: Any) -> None:
    """A logarithmic x axis with plain numbers: latencies lie within a decade or two."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")


def _figure(width: float, height: float, *, dpi: int = 130) -> tuple[Any, Any]:
    require("matplotlib", why="a picture")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = BytesIO()
    save_png(figure, buffer)
    return buffer.getvalue()
