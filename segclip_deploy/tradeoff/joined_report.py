"""The joined report: one HTML file that needs no network, with all of its pictures inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.files import write_file
from segclip_deploy.errors import UsageError
from segclip_deploy.tradeoff.join_results import join_results
from segclip_deploy.tradeoff.joined import RANK, Int8Gain, Joined, MachineFront, SharedArtifact
from segclip_deploy.tradeoff.joined_plots import (
    draw_bounds,
    draw_fronts,
    draw_gains,
    draw_shared,
    machine_sign,
)
from segclip_deploy.tradeoff.measured_machine import (
    MeasuredMachine,
    conditions_of,
    load_machines,
)
from segclip_deploy.tradeoff.mission import mission_text
from segclip_deploy.tradeoff.page import embedded_png, render_page
from segclip_deploy.tradeoff.results import RESULTS_FILE
from segclip_deploy.tradeoff.roofline import BOARDS

__all__ = ["JoinedReport", "join_reports"]

_SPREAD = 0.1
"""Points of mIoU that equal artefacts may differ by; the tolerance of engines (README)."""


@dataclass(frozen=True)
class JoinedReport:
    """The results of several machines side by side, and their page.

    Attributes:
        page: the HTML file.
        joined: what it says.
    """

    page: Path
    joined: Joined

    def to_json(self) -> dict[str, Any]:
        """The page, and all that it says but the conditions."""
        return {"report": str(self.page), **self.joined.to_json()}


def join_reports(folders: Sequence[Path], out: Path) -> JoinedReport:
    """Read the results of several sweeps and write one page about them.

    Args:
        folders: that ``benchmark`` wrote, on one machine or on several.
        out: the HTML file.

    Raises:
        UsageError: no folder, or ``out`` is no HTML file, or the report of one of the sweeps.
        BadInput: a folder without results, or the same results twice.
        BadArtifact: results that are damaged, or of a schema that is not read.
        MissingDependency: jinja2 or matplotlib is not installed.
    """
    if not folders:
        raise UsageError("no folder of a sweep", fix="segclip-deploy report DIR... -o OUT.html")
    if out.suffix != ".html" or out.is_dir():
        raise UsageError("not the name of an HTML file", where=f"-o {out}", fix="-o joined.html")
    taken = {(folder / "report.html").resolve() for folder in folders}
    if out.resolve() in taken:
        raise UsageError("the report of one sweep", where=f"-o {out}", fix="-o joined.html")
    machines = load_machines(folders)
    joined = join_results(machines)
    page = render_page("joined_report.html", _values(machines, joined))
    write_file(out, page.encode("utf-8"))
    return JoinedReport(out, joined)


def _values(machines: Sequence[MeasuredMachine], joined: Joined) -> dict[str, Any]:
    names = [machine.name for machine in machines]
    conditions = [conditions_of(machine) for machine in machines]
    return {
        "names": names,
        "joined": joined,
        "signs": {name: machine_sign(joined, name) for name in names},
        "sets": [_set(machines, joined, axes) for axes in sorted({m.axes for m in machines})],
        "rank": f"{RANK:g}",
        "spread": _SPREAD,
        "joules": any(row.joules is not None for one in joined.machines for row in one.rows),
        "missions": [(mission_text(one.flight), one.margins) for one in joined.missions],
        "boards": BOARDS,
        "bounds": embedded_png(draw_bounds(joined, joined.bounds)) if joined.bounds else None,
        "conditions": {
            name: [one.get(name, "–") for one in conditions]
            for name in dict.fromkeys(name for one in conditions for name in one)
        },
        "unlike": {one.condition for one in joined.differences},
        "results": RESULTS_FILE,
    }


def _set(machines: Sequence[MeasuredMachine], joined: Joined, axes: int) -> dict[str, Any]:
    """What may be compared with each other, and its pictures."""
    first = next(machine for machine in machines if machine.axes == axes)
    asked = first.results.conditions
    fronts = [one for one in joined.machines if one.axes == axes]
    shared = [
        one for one in joined.shared if len({r.machine for r in one.rows if r.axes == axes}) > 1
    ]
    gains = [gain for gain in joined.gains if gain.row.axes == axes]
    drawn = [gain for gain in gains if gain.times is not None]
    sizes = ", ".join(f"{h} × {w}" for h, w in asked.frame_sizes)
    return {
        "number": axes,
        "scored": f"mIoU on split {asked.split} of {Path(asked.dataset).name}, {asked.images} images; "
        f"latency on {asked.frames} frames of {sizes} pixels",
        "fronts": fronts,
        "gains": gains,
        "fronts_picture": embedded_png(draw_fronts(joined, axes))
        if any(f.rows for f in fronts)
        else "",
        "fronts_alt": "mIoU over latency. " + " ".join(_front_sentences(fronts)),
        "shared_picture": embedded_png(draw_shared(joined, shared, axes)) if shared else "",
        "shared_alt": "Median latency of equal artefacts. "
        + " ".join(_shared_sentences(shared, axes)),
        "gains_picture": embedded_png(draw_gains(joined, drawn)) if drawn else "",
        "gains_alt": "Speed against FP16. " + " ".join(_gain_sentences(drawn)),
    }


def _front_sentences(fronts: Sequence[MachineFront]) -> Iterator[str]:
    for one in fronts:
        if one.rows:
            fast, good = one.front_rows[0], one.front_rows[-1]
            yield (
                f"{one.machine}: from {fast.p99_ms:.1f} ms at {fast.miou:.4f} "
                f"to {good.p99_ms:.1f} ms at {good.miou:.4f}."
            )


def _shared_sentences(shared: Sequence[SharedArtifact], axes: int) -> Iterator[str]:
    for one in shared:
        told = (f"{r.machine} {r.p50_ms:.1f} ms" for r in one.rows if r.axes == axes)
        yield f"{one.label}: {', '.join(told)}."


def _gain_sentences(gains: Sequence[Int8Gain]) -> Iterator[str]:
    for one in gains:
        yield f"{one.row.machine}, {one.row.name}: {one.times:.2f} times."
