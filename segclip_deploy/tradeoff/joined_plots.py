"""The pictures of the joined report: one pair of axes for what may be compared, a colour a machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segclip_deploy.runtime.profiling.palette import LINE, MACHINE_COLOURS, PALE
from segclip_deploy.tradeoff.joined import (
    RANK,
    Int8Gain,
    Joined,
    JoinedRow,
    MachineFront,
    MeasuredBound,
    SharedArtifact,
)
from segclip_deploy.tradeoff.plots import (
    BOUNDS_TITLE,
    FRONTS_TITLE,
    figure_png,
    log_scale,
    new_figure,
)
from segclip_deploy.tradeoff.roofline import BOARDS

__all__ = ["draw_bounds", "draw_fronts", "draw_gains", "draw_shared", "machine_sign"]

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SIGNS = "●■▲◆▼✚✖★"
"""The shapes tell machines apart in grey, too, and as there are eight beside seven colours, 56 in all."""


def draw_fronts(joined: Joined, axes: int) -> bytes:
    """MIoU over latency, and the Pareto front of each machine of one pair of axes."""
    figure, plot = new_figure(FRONTS_TITLE, 9, 5.4)
    for machine in joined.machines:
        if machine.axes != axes or not machine.rows:
            continue
        colour, marker = _style(joined, machine.machine)
        front = machine.front_rows
        plot.step(
            [row.p99_ms for row in front],
            [row.miou for row in front],
            where="post",
            color=colour,
            linewidth=1.2,
        )
        for row in machine.rows:
            plot.plot(*_bar(row), color=colour, linewidth=0.8, alpha=0.6)
            _point(plot, row.p99_ms, row.miou, row, colour, marker, small=row not in front)
        plot.plot([], [], color=colour, marker=marker, label=_legend(machine))
        for row in front:
            plot.annotate(
                row.precision,
                (row.p99_ms, row.miou),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=8,
            )
    log_scale(plot, minor=(2, 5))
    plot.set_xlabel(f"p{RANK:g} latency of a frame, ms (bars: 95 % bounds)")
    plot.set_ylabel("mIoU")
    plot.grid(alpha=0.25, which="both")
    figure.legend(fontsize=8, loc="outside lower left", ncols=1, frameon=False)
    return figure_png(figure)


def draw_shared(joined: Joined, shared: Sequence[SharedArtifact], axes: int) -> bytes:
    """Latency of equal artefacts on the machines of one pair of axes, a line an artefact."""
    height = 1.3 + 0.5 * len(shared) + 0.2 * len(joined.machines)
    figure, plot = new_figure("The same artefact on each machine: left is faster", 9, height)
    seen: dict[str, None] = {}
    for place, artifact in enumerate(shared):
        rows = [row for row in artifact.rows if row.axes == axes]
        ends = [row.p50_ms for row in rows]
        plot.plot([min(ends), max(ends)], [place, place], color=PALE, linewidth=1, zorder=1)
        for row in rows:
            seen[row.machine] = None
            _point(plot, row.p50_ms, place, row, *_style(joined, row.machine))
    for machine in seen:
        colour, marker = _style(joined, machine)
        plot.plot([], [], color=colour, marker=marker, linestyle="none", label=machine)
    plot.set_yticks(range(len(shared)), [one.label for one in shared], fontsize=8)
    plot.set_ylim(len(shared) - 0.5, -0.5)
    log_scale(plot, minor=(2, 5))
    plot.set_xlabel("ms a frame, median")
    plot.grid(alpha=0.25, which="both", axis="x")
    figure.legend(fontsize=8, loc="outside lower left", ncols=1, frameon=False)
    return figure_png(figure)


def draw_gains(joined: Joined, gains: Sequence[Int8Gain]) -> bytes:
    """How many times faster than FP16, with 95 % bounds; each is of one machine by itself."""
    title = "What INT8 gains over FP16: right of the dashed line it is faster"
    figure, plot = new_figure(title, 9, 1.1 + 0.42 * len(gains))
    for place, gain in enumerate(gains):
        if gain.times is None or gain.interval is None:
            continue
        colour, marker = _style(joined, gain.row.machine)
        plot.plot(gain.interval, [place, place], color=colour, linewidth=1.2)
        _point(plot, gain.times, place, gain.row, colour, marker)
        plot.annotate(
            f"{gain.times:.2f}×",
            (gain.interval[1], place),
            xytext=(7, -3),
            textcoords="offset points",
            fontsize=8,
        )
    plot.axvline(1, color=LINE, linewidth=1, linestyle="--")
    labels = [f"{gain.row.machine}\n{gain.row.name}" for gain in gains]
    plot.set_yticks(range(len(gains)), labels, fontsize=7)
    plot.set_ylim(len(gains) - 0.5, -0.5)
    plot.margins(x=0.15)
    plot.set_xlabel("times as fast as FP16, medians")
    return figure_png(figure)


def draw_bounds(joined: Joined, bounds: Sequence[MeasuredBound]) -> bytes:
    """Milliseconds a window that no engine can go below, hatched, and what was measured, a mark."""
    figure, plot = new_figure(BOUNDS_TITLE, 9, 1.1 + 0.34 * len(bounds))
    for place, one in enumerate(bounds):
        plot.barh(place, one.bound.ms, facecolor="white", edgecolor=LINE, hatch="///")
        if one.row is not None and one.ms is not None:
            _point(plot, one.ms, place, one.row, *_style(joined, one.row.machine))
        told = (
            f"≥ {one.bound.ms:.2f}"
            if one.ms is None
            else f"≥ {one.bound.ms:.2f}, measured {one.ms:.2f}"
        )
        plot.annotate(
            told,
            (max(one.bound.ms, one.ms or 0), place),
            xytext=(9, -3),
            textcoords="offset points",
            fontsize=8,
        )
    labels = [
        f"{BOARDS[b.bound.board].title}, {b.bound.precision}, {b.bound.bundle}" for b in bounds
    ]
    plot.set_yticks(range(len(bounds)), labels, fontsize=8)
    plot.set_ylim(len(bounds) - 0.5, -0.5)
    plot.margins(x=0.3)
    plot.set_xlabel("ms a window (hatched: computed; marks: measured)")
    return figure_png(figure)


def machine_sign(joined: Joined, machine: str) -> tuple[str, str]:
    """Colour and a character of the shape that a machine has in the pictures."""
    colour, marker = _style(joined, machine)
    return colour, _SIGNS[_MARKERS.index(marker)]


def _legend(machine: MachineFront) -> str:
    marked = any(row.marks for row in machine.rows)
    return f"{machine.machine} (hollow: read its marks)" if marked else machine.machine


def _style(joined: Joined, machine: str) -> tuple[str, str]:
    """Colour and shape of a machine, the same in every picture."""
    place = [one.machine for one in joined.machines].index(machine)
    return MACHINE_COLOURS[place % len(MACHINE_COLOURS)], _MARKERS[place % len(_MARKERS)]


def _point(
    plot: Any, x: float, y: float, row: JoinedRow, colour: str, marker: str, *, small: bool = False
) -> None:
    """A row; hollow where it has marks."""
    plot.plot(
        x,
        y,
        marker=marker,
        markersize=5 if small else 8,
        color=colour,
        markerfacecolor="white" if row.marks else colour,
        alpha=0.5 if small else 1,
        linestyle="none",
        zorder=3,
    )


def _bar(row: JoinedRow) -> tuple[tuple[float, float], tuple[float, float]]:
    return row.p99_interval, (row.miou, row.miou)
