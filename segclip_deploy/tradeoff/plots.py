"""The report's pictures, but for the tradeoff itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segclip_deploy._optional import require
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.runtime.inference.drawing import overlay
from segclip_deploy.runtime.profiling.picture import save_png
from segclip_deploy.tradeoff.roofline import BOARDS, LowerBound
from segclip_deploy.tradeoff.row import Row

__all__ = [
    "LOOKS",
    "class_changes",
    "figure_png",
    "latencies",
    "log_scale",
    "lower_bounds",
    "new_figure",
    "panel",
    "stage_bars",
]

# Colours that colour-blind readers can tell apart: Okabe & Ito, Color Universal Design, 2008.
LOOKS = {
    "fp32": ("#0072b2", "o"),
    "fp16": ("#009e73", "s"),
    "int8": ("#d55e00", "^"),
    "planned": ("#cc79a7", "D"),
}
"""Colour and shape of each precision."""
_STAGES = {"prepare": "#56b4e9", "infer": "#0072b2", "postprocess": "#e69f00"}


def lower_bounds(bounds: Sequence[LowerBound]) -> bytes:
    """Milliseconds that no engine can go below, hatched and grey: nothing of it was measured."""
    names = [f"{BOARDS[b.board].title}, {b.precision}, {b.bundle}" for b in bounds]
    figure, axes = new_figure(9, 0.9 + 0.26 * len(bounds))
    axes.barh(names, [b.ms for b in bounds], facecolor="#f1f3f5", edgecolor="#adb5bd", hatch="///")
    for index, one in enumerate(bounds):
        told = f"  ≥ {one.ms:.2f}"
        axes.text(one.ms, index, told, va="center", fontsize=8, color="#868e96", style="italic")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("ms a window, a lower bound: computed, not measured")
    return figure_png(figure)


def stage_bars(rows: Sequence[Row]) -> bytes:
    """Where the milliseconds go, the fastest row on top."""
    ordered = sorted(rows, key=lambda row: row.percentile(50), reverse=True)
    figure, axes = new_figure(9, 0.9 + 0.32 * len(ordered))
    left = np.zeros(len(ordered))
    for stage, colour in _STAGES.items():
        values = np.array([row.stages[stage] for row in ordered])
        axes.barh([row.name for row in ordered], values, left=left, color=colour, label=stage)
        left += values
    axes.set_xlabel("median ms a frame")
    axes.tick_params(axis="y", labelsize=8)
    axes.legend(fontsize=8)
    return figure_png(figure)


def latencies(rows: Sequence[Row], rank: float) -> bytes:
    """The distribution of each row's latency; the tick is its percentile."""
    ordered = sorted(rows, key=lambda row: row.percentile(50), reverse=True)
    figure, axes = new_figure(9, 0.9 + 0.36 * len(ordered))
    parts = axes.violinplot(
        [list(row.frame_ms) for row in ordered], orientation="horizontal", showextrema=False
    )
    for body, row in zip(parts["bodies"], ordered, strict=True):
        body.set_facecolor(LOOKS[row.precision.split()[0]][0])
    for index, row in enumerate(ordered, start=1):
        axes.plot([row.percentile(rank)] * 2, [index - 0.25, index + 0.25], color="#212529")
    axes.set_yticks(range(1, len(ordered) + 1), [row.name for row in ordered], fontsize=8)
    log_scale(axes)
    axes.set_xlabel(f"ms a frame (tick: p{rank:g})")
    return figure_png(figure)


def class_changes(rows: Sequence[Row], references: Mapping[str, Row]) -> bytes:
    """Points of IoU that each class gains or loses against FP32."""
    names = list(rows[0].iou)
    values = np.array(
        [[_points(row.iou[n], references[row.name].iou[n]) for n in names] for row in rows]
    )
    figure, axes = new_figure(2 + 1.1 * len(names), 1 + 0.34 * len(rows))
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
    return figure_png(figure)


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


def log_scale(axes: Any, *, minor: tuple[int, ...] = (2, 3, 5, 7)) -> None:
    """A logarithmic x axis with plain numbers, those within a decade too: fewer where it spans many."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(LogLocator(subs=minor))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")


def new_figure(width: float, height: float, *, dpi: int = 130) -> tuple[Any, Any]:
    """An empty figure of so many inches, and its axes.

    Raises:
        MissingDependency: matplotlib, of the extra ``report``, is not installed.
    """
    require("matplotlib", why="a picture")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def figure_png(figure: Any) -> bytes:
    """A figure as a PNG file."""
    buffer = BytesIO()
    save_png(figure, buffer)
    return buffer.getvalue()
