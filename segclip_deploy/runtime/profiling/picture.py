"""A profile as one PNG: where the time goes, how it scatters, how it went."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np

from segclip_deploy._optional import require
from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.runtime.profiling import palette
from segclip_deploy.runtime.profiling.layers import sum_blocks
from segclip_deploy.runtime.profiling.measure import STAGES
from segclip_deploy.runtime.profiling.record import ProfileRecord

__all__ = ["draw_profile", "save_png"]


def draw_profile(profile: ProfileRecord, path: Path) -> None:
    """Write the picture.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    require("matplotlib", why="a picture of a profile")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8.5), dpi=130, layout="constrained")
    parts = figure.subplot_mosaic(
        [["stages", "stages"], ["blocks", "scatter"], ["course", "course"]],
        height_ratios=[0.5, 1.6, 1.2],
    )
    _stages(parts["stages"], profile)
    _blocks(parts["blocks"], profile)
    _scatter(parts["scatter"], profile)
    _course(parts["course"], profile)
    for axes in parts.values():
        axes.spines[["top", "right"]].set_visible(False)
    conditions = profile.conditions
    figure.suptitle(
        f"{Path(conditions.path).name}: {conditions.engine} on {conditions.device.name}\n"
        f"frames {conditions.frame_sizes}, {len(profile.samples.total)} samples after "
        f"{conditions.warm_up.frames} of warm-up, threads {conditions.threads}, "
        f"load {conditions.load.before} to {conditions.load.after}",
        fontsize=10,
    )
    with replace_file(path) as temporary:
        save_png(figure, temporary)


def _stages(axes: Any, profile: ProfileRecord) -> None:
    left = 0.0
    for stage, values in profile.stages.items():
        ms = values.p50
        axes.barh(0, ms, left=left, color=palette.STAGE_COLOURS[stage],
                  edgecolor="white", linewidth=0.5, label=f"{stage} {ms:.1f} ms")  # fmt: skip
        left += ms
    axes.set_yticks([])
    axes.set_title("Where the time of a frame goes: median ms by stage", fontsize=9, loc="left")
    axes.set_xlabel("ms")
    axes.legend(
        ncols=len(STAGES), fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.7), frameon=False
    )


def _blocks(axes: Any, profile: ProfileRecord) -> None:
    blocks = sum_blocks(profile.layers)
    total = sum(blocks.values()) or 1.0
    ordered = list(blocks.items())[:14][::-1]  # the slowest on top
    axes.barh([name for name, _ in ordered], [ms for _, ms in ordered], color=palette.BLUE)
    for index, (_, ms) in enumerate(ordered):
        axes.text(ms, index, f" {ms / total:.0%}", va="center", fontsize=7)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_title("The slowest blocks of the network, and their share", fontsize=9, loc="left")
    axes.set_xlabel("ms of one inference")


def _scatter(axes: Any, profile: ProfileRecord) -> None:
    ready = np.array(profile.samples.ready)
    axes.hist(ready, bins=min(60, max(10, len(ready) // 5)), color=palette.SKY)
    for rank, value, style in (("p50", profile.ready.p50, "-"), ("p99", profile.ready.p99, "--")):
        axes.axvline(value, color=palette.INK, linestyle=style, label=f"{rank} {value:.1f} ms")
    limit = profile.deadline_ms
    if limit:
        axes.axvline(limit, color=palette.VERMILION, linestyle=":", label=f"deadline {limit:g} ms")
    axes.set_title("How it scatters: from the file to the label map", fontsize=9, loc="left")
    axes.set_xlabel("ms")
    axes.set_ylabel("frames")
    axes.legend(fontsize=8)


def _course(axes: Any, profile: ProfileRecord) -> None:
    axes.plot(profile.samples.at, profile.samples.ready, ".", markersize=3, color=palette.BLUE)
    axes.set_xlabel("seconds from the start")
    axes.set_ylabel("ms a frame")
    axes.set_ylim(0, 1.1 * max(profile.samples.ready))
    axes.set_title("How it went: each dot is a frame", fontsize=9, loc="left")
    for values, unit, colour, name in (
        (profile.power.watts, "W", palette.ORANGE, "orange"),
        (profile.power.celsius, "°C", palette.PURPLE, "pink"),
    ):
        if values:
            other = axes.twinx()
            other.plot(profile.power.at[: len(values)], values, color=colour, linewidth=1)
            other.set_ylabel(f"{unit} ({name} line)")


def save_png(figure: Any, file: Path | IO[bytes]) -> None:
    """Write a figure; its texts stand as they are: a class called ``$x_{`` is no formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    figure.savefig(file, format="png")
