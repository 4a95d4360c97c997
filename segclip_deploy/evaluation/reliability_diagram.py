"""A reliability diagram: how often a model is right, by how sure it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from segclip_deploy._optional import require
from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.confidence import BINS, Confidence, Reliability
from segclip_deploy.runtime.profiling import palette
from segclip_deploy.runtime.profiling.picture import save_png

__all__ = ["check_diagram", "draw_reliability"]


def check_diagram(path: Path) -> None:
    """Accept a name that a diagram can be written to, before anything is measured for it.

    Raises:
        BadInput: it does not end in ``.png``.
        MissingDependency: matplotlib is not installed.
    """
    if path.suffix.lower() != ".png":
        fix = f"call it {path.with_suffix('.png')}"
        raise BadInput("a reliability diagram is written as PNG", where=path, fix=fix)
    require("matplotlib", why="a reliability diagram")


def draw_reliability(confidence: Confidence, path: Path, *, title: str) -> None:
    """Draw accuracy over confidence, and below how many pixels each bin has; before and after a temperature.

    Args:
        confidence: what was measured.
        path: of the picture (.png); folders are made.
        title: of it.

    Raises:
        BadInput, MissingDependency: as of ``check_diagram``.
    """
    check_diagram(path)
    from matplotlib.figure import Figure

    columns = [("as it is", confidence.measured)]
    if confidence.before is not None:
        after = f"after, temperature {confidence.temperature:.3f}"
        columns = [("before", confidence.before), (after, confidence.measured)]
    figure = Figure(figsize=(4.8 * len(columns), 6), dpi=130, layout="constrained")
    grid = figure.subplots(
        2, len(columns), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1]
    )
    for column, (name, found) in enumerate(columns):
        _draw_accuracy(grid[0, column], found, f"{name}: ECE {found.ece:.4f}")
        _draw_counts(grid[1, column], found)
    grid[0, 0].set_ylabel("share of pixels that are right")
    grid[1, 0].set_ylabel("pixels, log scale")
    grid[0, 0].legend(fontsize=8, loc="upper left", frameon=False)
    figure.suptitle(f"How often the model is right, by how sure it is\n{title}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as temporary:
        save_png(figure, temporary)


def _draw_accuracy(axes: Any, found: Reliability, title: str) -> None:
    """Bars of accuracy, and up or down to the mean confidence the gap that ECE adds up."""
    middle = (np.arange(BINS) + 0.5) / BINS
    accuracy = np.nan_to_num(found.bin_accuracy)
    gap = np.nan_to_num(found.bin_confidence - found.bin_accuracy)
    axes.bar(middle, accuracy, width=0.9 / BINS, color=palette.BLUE, label="accuracy")
    axes.bar(
        middle, gap, width=0.5 / BINS, bottom=accuracy, color="white", hatch="///",
        edgecolor=palette.VERMILION, linewidth=0.5, label="gap to the mean confidence",
    )  # fmt: skip
    axes.plot(
        [0, 1], [0, 1], color=palette.INK, linewidth=1, linestyle="--", label="as sure as right"
    )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_counts(axes: Any, found: Reliability) -> None:
    """How many pixels each bin has, on a logarithmic scale: most are in the last."""
    middle = (np.arange(BINS) + 0.5) / BINS
    axes.bar(middle, found.pixels, width=0.9 / BINS, color=palette.LINE)
    axes.set_yscale("log")
    axes.set_ylim(0.8, 30 * max(found.pixels.max(), 1))  # room for the numbers
    axes.yaxis.set_major_formatter("{x:,.0f}")
    for place, pixels in zip(middle, found.pixels, strict=True):
        if pixels:
            axes.text(place, pixels, f" {pixels:,}", rotation=90, ha="center", va="bottom", fontsize=6)  # fmt: skip
    axes.set_xlabel("confidence: probability of the best class")
    axes.spines[["top", "right"]].set_visible(False)
