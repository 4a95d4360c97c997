"""``report``: put what several machines measured side by side. Nothing is measured, or estimated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from segclip_deploy.tradeoff.comparison import speed_up_bounds
from segclip_deploy.tradeoff.joined import (
    RANK,
    Int8Gain,
    Joined,
    JoinedMission,
    JoinedRow,
    MachineFront,
    MeasuredBound,
    RowMargin,
    SharedArtifact,
)
from segclip_deploy.tradeoff.measured_machine import (
    MeasuredMachine,
    marks_of,
    row_marks,
    unlike_conditions,
)
from segclip_deploy.tradeoff.mission import margins
from segclip_deploy.tradeoff.roofline import board_of
from segclip_deploy.tradeoff.row import Row, pareto_front

__all__ = ["join_results"]


@dataclass(frozen=True)
class _Entry:
    """A row, where it was measured, and what the joined report says of it.

    Attributes:
        fp32_sha256: digest of the FP32 bundle that its bundle is, or was quantized from.
        board: name in ``BOARDS`` of the machine; None for another machine.
    """

    machine: MeasuredMachine
    row: Row
    joined: JoinedRow
    fp32_sha256: str | None
    board: str | None


def join_results(machines: Sequence[MeasuredMachine]) -> Joined:
    """Put the results of several machines side by side."""
    entries = [entry for machine in machines for entry in _entries(machine)]
    return Joined(
        machines=tuple(_front(machine, entries) for machine in machines),
        differences=unlike_conditions(machines),
        shared=tuple(_shared(entries)),
        quantized_apart=tuple(_quantized_apart(entries)),
        gains=tuple(_gains(entries)),
        missions=tuple(_missions(machines, entries)),
        bounds=tuple(_bounds(machines, entries)),
    )


def _entries(machine: MeasuredMachine) -> Iterator[_Entry]:
    by_name = {row.name: row for row in machine.results.rows}
    jetson = machine.results.conditions.device.jetson
    for row in machine.results.rows:
        yield _Entry(
            machine=machine,
            row=row,
            joined=_joined(machine, row),
            fp32_sha256=by_name[row.own_fp32].bundle_sha256,
            board=board_of(jetson.board) if jetson and jetson.board else None,
        )


def _joined(machine: MeasuredMachine, row: Row) -> JoinedRow:
    return JoinedRow(
        machine=machine.name,
        axes=machine.axes,
        name=row.name,
        target=row.target,
        precision=row.precision,
        window=row.window,
        overlap=row.overlap,
        threads=row.threads,
        miou=row.miou,
        drop=row.drop,
        joules=row.joules,
        backend=row.backend,
        p50_ms=row.percentile(50),
        p99_ms=row.percentile(RANK),
        p99_interval=row.interval(RANK),
        marks=row_marks(machine, row),
    )


def _front(machine: MeasuredMachine, entries: Sequence[_Entry]) -> MachineFront:
    results = machine.results
    mine = (entry.joined for entry in entries if entry.machine is machine)
    return MachineFront(
        machine=machine.name,
        axes=machine.axes,
        folder=str(machine.folder),
        rows=tuple(sorted(mine, key=lambda row: row.p99_ms)),
        front=tuple(
            pareto_front({row.name: (row.percentile(RANK), row.miou) for row in results.rows})
        ),
        failures=len(results.failures),
        recommended=results.recommended,
        marks=marks_of(machine),
    )


def _shared(entries: Sequence[_Entry]) -> Iterator[SharedArtifact]:
    groups: dict[tuple[str, int], list[JoinedRow]] = {}
    for entry in entries:
        if entry.row.bundle_sha256 is not None:
            groups.setdefault((entry.row.bundle_sha256, entry.row.overlap), []).append(entry.joined)
    for (sha256, overlap), group in groups.items():
        if len({row.machine for row in group}) < 2:
            continue
        rows = sorted(group, key=lambda row: (row.axes, row.p50_ms))
        by_axes = {row.axes: [one for one in rows if one.axes == row.axes] for row in rows}
        fastest = {axes: alike[0].p50_ms for axes, alike in by_axes.items()}
        mious = [[row.miou for row in alike] for alike in by_axes.values()]
        yield SharedArtifact(
            bundle_sha256=sha256,
            precision=rows[0].precision,
            overlap=overlap,
            rows=tuple(rows),
            times=tuple(row.p50_ms / fastest[row.axes] for row in rows),
            miou_spread=100 * max(max(alike) - min(alike) for alike in mious),
        )


def _quantized_apart(entries: Sequence[_Entry]) -> Iterator[str]:
    groups: dict[tuple[str, str, str], dict[str, set[str]]] = {}
    for entry in entries:
        fp32, own = entry.fp32_sha256, entry.row.bundle_sha256
        if fp32 is not None and own is not None and own != fp32:
            made = groups.setdefault((fp32, entry.row.precision, entry.row.target), {})
            made.setdefault(entry.machine.name, set()).add(own)
    for (fp32, precision, target), made in groups.items():
        if len(made) > 1 and not set.intersection(*made.values()):
            yield f"{precision} for {target}, of FP32 bundle {fp32[:12]}: {'; '.join(made)}"


def _gains(entries: Sequence[_Entry]) -> Iterator[Int8Gain]:
    halves = {
        (entry.machine.name, entry.row.own_fp32, entry.row.target): entry
        for entry in entries
        if entry.row.precision == "fp16"
    }
    for entry in entries:
        row = entry.row
        if row.precision.split()[0] not in ("int8", "planned"):
            continue
        half = halves.get((entry.machine.name, row.own_fp32, row.target))
        yield Int8Gain(
            row=entry.joined,
            fp16=half.joined if half else None,
            times=half.joined.p50_ms / entry.joined.p50_ms if half else None,
            interval=speed_up_bounds(row, half.row, 50) if half else None,
            points=100 * (row.miou - half.row.miou) if half else None,
        )


def _missions(
    machines: Sequence[MeasuredMachine], entries: Sequence[_Entry]
) -> Iterator[JoinedMission]:
    """Every mission against the engines of every machine, also of those that were not asked for it."""
    for flight in dict.fromkeys(machine.results.flight for machine in machines):
        if flight is None:
            continue
        has = margins(flight, [entry.row for entry in entries], RANK)
        found = [
            RowMargin(row=entry.joined, margin=margin)
            for entry, margin in zip(entries, has, strict=True)
        ]
        places = {machine.name: place for place, machine in enumerate(machines)}
        found.sort(key=lambda one: (places[one.row.machine], -one.margin.margin))
        yield JoinedMission(flight=flight, margins=tuple(found))


def _bounds(
    machines: Sequence[MeasuredMachine], entries: Sequence[_Entry]
) -> Iterator[MeasuredBound]:
    """Beside each bound the fastest row of the same network and precision on such a board.

    A planned mix is held against the bound of INT8: it computes nothing in less.
    """
    measured: dict[tuple[str, str, str], list[tuple[float, JoinedRow]]] = {}
    for entry in entries:
        row, precision = entry.row, entry.row.precision.split()[0]
        if entry.board and entry.fp32_sha256 and "infer" in row.stages:
            key = (entry.fp32_sha256, entry.board, {"planned": "int8"}.get(precision, precision))
            measured.setdefault(key, []).append((row.stages["infer"] / row.windows, entry.joined))
    for bound in dict.fromkeys(b for machine in machines for b in machine.results.bounds):
        found = measured.get((bound.bundle_sha256 or "", bound.board, bound.precision), [])
        best = min(found, key=lambda one: one[0], default=None)
        yield MeasuredBound(
            bound=bound, row=best[1] if best else None, ms=best[0] if best else None
        )
