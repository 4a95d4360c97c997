"""The report's pictures."""

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
from segclip_deploy.tradeoff.row import Row, pareto_front

__all__ = ["class_changes", "latencies", "lower_bounds", "panel", "stage_bars", "tradeoff"]

_COLOURS = {"fp32": "#4c6ef5", "fp16": "#12b886", "int8": "#e8590c", "planned": "#ae3ec9"}
_STAGES = {"prepare": "#74c0fc", "infer": "#4c6ef5", "postprocess": "#ffa94d"}


def tradeoff(rows: Sequence[Row], rank: float, *, best: Row | None) -> bytes:
    """MIoU over latency: size is the file's, colour the precision, the line the Pareto front."""
    figure, axes = _figure(9, 5)
    for kind, colour in _COLOURS.items():
        mine = [row for row in rows if row.precision.split()[0] == kind]
        if mine:
            axes.scatter(
                [row.percentile(rank) for row in mine],
                [row.miou for row in mine],
                s=[30 + 8 * row.bytes / 1e6 for row in mine],
                color=colour,
                alpha=0.75,
                label=kind,
                zorder=3,
            )
    front = pareto_front(rows, rank)
    axes.step(
        [row.percentile(rank) for row in front],
        [row.miou for row in front],
        where="post",
        color="#868e96",
        linewidth=1,
        label="Pareto front",
    )
    for row in rows:
        low, high = row.interval(rank)
        axes.plot([low, high], [row.miou, row.miou], color="#868e96", linewidth=0.8, zorder=2)
    for row in front:
        axes.annotate(
            row.name,
            (row.percentile(rank), row.miou),
            xytext=(6, 6),
            textcoords="offset points",
            fontsize=8,
        )
    if best is not None:
        place = (best.percentile(rank), best.miou)
        axes.scatter(*place, s=260, facecolors="none", edgecolors="#212529", label="recommended")
    _log_scale(axes)
    axes.set_xlabel(f"p{rank:g} latency of a frame, ms (bars: 95 % bounds)")
    axes.set_ylabel("mIoU")
    axes.grid(alpha=0.25, which="both")
    figure.legend(fontsize=8, loc="outside upper right", ncols=6, frameon=False)
    return _png(figure)


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
        body.set_facecolor(_COLOURS[row.precision.split()[0]])
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


def _figure(width: float, height: float) -> tuple[Any, Any]:
    require("matplotlib", why="a picture")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = BytesIO()
    save_png(figure, buffer)
    return buffer.getvalue()
