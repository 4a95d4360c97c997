"""The report's pictures, but for the tradeoff itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from segclip_deploy._optional import require
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.runtime.inference.drawing import overlay
from segclip_deploy.runtime.profiling import palette
from segclip_deploy.runtime.profiling.picture import save_png
from segclip_deploy.tradeoff.roofline import BOARDS, LowerBound
from segclip_deploy.tradeoff.row import Row

__all__ = [
    "BOUNDS_TITLE",
    "FRONTS_TITLE",
    "LOOKS",
    "class_changes",
    "figure_png",
    "latencies",
    "log_scale",
    "lower_bounds",
    "new_figure",
    "panel",
    "points_gained",
    "stage_bars",
]

FRONTS_TITLE = "Accuracy against latency: up and to the left is better"
BOUNDS_TITLE = "What no engine can go below: computed, not measured"
"""Of the pictures that both reports have."""

LOOKS = {
    "fp32": (palette.BLUE, "o"),
    "fp16": (palette.GREEN, "s"),
    "int8": (palette.VERMILION, "^"),
    "planned": (palette.PURPLE, "D"),
}
"""Colour and shape of each precision."""
_TITLE = 36  # pixels above each image, read at half of its size
_STAGES = ("prepare", "infer", "postprocess")  # all of them together are the latency of a frame


def lower_bounds(bounds: Sequence[LowerBound]) -> bytes:
    """Milliseconds that no engine can go below, hatched and grey: nothing of it was measured."""
    names = [f"{BOARDS[b.board].title}, {b.precision}, {b.bundle}" for b in bounds]
    figure, axes = new_figure(BOUNDS_TITLE, 9, 0.9 + 0.26 * len(bounds))
    lengths = [b.ms for b in bounds]
    axes.barh(names, lengths, facecolor="white", edgecolor=palette.LINE, hatch="///")
    for index, one in enumerate(bounds):
        told = f"  ≥ {one.ms:.2f}"
        axes.text(one.ms, index, told, va="center", fontsize=8, color=palette.MUTED, style="italic")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("ms a window, at least")
    return figure_png(figure)


def stage_bars(rows: Sequence[Row]) -> bytes:
    """Where the milliseconds go, the fastest row on top."""
    ordered = sorted(rows, key=lambda row: row.percentile(50), reverse=True)
    title = "Where the milliseconds of a frame go: shorter is better"
    figure, axes = new_figure(title, 9, 1.2 + 0.32 * len(ordered))
    left = np.zeros(len(ordered))
    for stage in _STAGES:
        values = np.array([row.stages[stage] for row in ordered])
        axes.barh(
            [row.name for row in ordered], values, left=left, label=stage,
            color=palette.STAGE_COLOURS[stage], edgecolor="white", linewidth=0.5,
        )  # fmt: skip
        left += values
    axes.set_xlabel("ms a frame, median")
    axes.tick_params(axis="y", labelsize=8)
    figure.legend(fontsize=8, loc="outside lower right", ncols=len(_STAGES), frameon=False)
    return figure_png(figure)


def latencies(rows: Sequence[Row], rank: float) -> bytes:
    """The distribution of each row's latency; the tick is its percentile."""
    ordered = sorted(rows, key=lambda row: row.percentile(50), reverse=True)
    title = f"How the latency of frames scatters: {rank:g} of 100 frames are left of the tick"
    figure, axes = new_figure(title, 9, 0.9 + 0.36 * len(ordered))
    parts = axes.violinplot(
        [list(row.frame_ms) for row in ordered], orientation="horizontal", showextrema=False
    )
    for body, row in zip(parts["bodies"], ordered, strict=True):
        body.set_facecolor(LOOKS[row.precision.split()[0]][0])
    for index, row in enumerate(ordered, start=1):
        axes.plot([row.percentile(rank)] * 2, [index - 0.25, index + 0.25], color=palette.INK)
    axes.set_yticks(range(1, len(ordered) + 1), [row.name for row in ordered], fontsize=8)
    log_scale(axes)
    axes.set_xlabel("ms a frame")
    return figure_png(figure)


def class_changes(rows: Sequence[Row], references: Mapping[str, Row]) -> bytes:
    """Points of IoU that each class gains or loses against FP32."""
    names = list(rows[0].iou)
    values = np.array(
        [[points_gained(row.iou[n], references[row.name].iou[n]) for n in names] for row in rows]
    )
    title = "What each class gains (blue) or loses (red) against FP32"
    figure, axes = new_figure(title, 2 + 1.1 * len(names), 1 + 0.34 * len(rows))
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
    colours = np.vstack([vocabulary.palette, np.zeros((256 - len(vocabulary.palette), 3))])
    colours = colours.astype(np.uint8)
    dimmed = overlay(pixels, np.zeros_like(labels), np.array([[20, 20, 20]], np.uint8))
    differs = np.array(dimmed)
    differs[reference != labels] = ImageColor.getrgb(palette.YELLOW)
    pictures = [pixels, colours[ground_truth], colours[reference], colours[labels], differs]
    height = max(1, round(side * pixels.shape[0] / pixels.shape[1]))
    font = ImageFont.load_default(size=26)
    sheet = Image.new("RGB", (5 * (side + 6), height + _TITLE), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        left = index * (side + 6)
        draw.text((left + 2, 2), title, fill="black", font=font)
        kind = Image.Resampling.LANCZOS if index in (0, 4) else Image.Resampling.NEAREST
        sheet.paste(Image.fromarray(picture).resize((side, height), kind), (left, _TITLE))
    buffer = BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def points_gained(value: float | None, before: float | None) -> float:
    """Points between two shares of 1; not a number where one is None."""
    return np.nan if value is None or before is None else 100 * (value - before)


def log_scale(axes: Any, *, minor: tuple[int, ...] = (2, 3, 5, 7)) -> None:
    """A logarithmic x axis with plain numbers, those within a decade too: fewer where it spans many."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(LogLocator(subs=minor))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")


def new_figure(title: str, width: float, height: float, *, dpi: int = 130) -> tuple[Any, Any]:
    """An empty figure of so many inches, and its axes; the title says what is to be seen.

    Raises:
        MissingDependency: matplotlib, of the extra ``report``, is not installed.
    """
    require("matplotlib", why="a picture")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10, loc="left")
    return figure, axes


def figure_png(figure: Any) -> bytes:
    """A figure as a PNG file."""
    buffer = BytesIO()
    save_png(figure, buffer)
    return buffer.getvalue()
