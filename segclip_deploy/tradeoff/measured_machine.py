"""Results of several machines, and what of their conditions is unlike."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segclip_deploy.artifacts.records import Record, replace
from segclip_deploy.errors import BadInput, command
from segclip_deploy.tradeoff.results import ResultsRecord, load_results
from segclip_deploy.tradeoff.row import Row

__all__ = [
    "Difference",
    "MeasuredMachine",
    "conditions_of",
    "load_machines",
    "marks_of",
    "row_marks",
    "unlike_conditions",
]

_NONE, _NOT_TOLD = "none", "not told"

_STEADY = 0.05
"""Share that the median latency of a row's second half may differ by from that of its first half."""

_APART = ("ground truth", "frames", "frame sizes")
"""Conditions that make accuracies or latencies of a frame figures of different things."""

_COMPARED = (
    *_APART,
    *("segclip-deploy", "split", "window overlap", "samples", "warm-up", "power mode", "governor"),
)
"""Conditions that ought to be alike; libraries come to these, by target."""


@dataclass(frozen=True)
class MeasuredMachine:
    """What one ``benchmark`` measured on one machine.

    Attributes:
        name: of the machine and its power mode, unique among those that are joined.
        folder: that the results were read from.
        axes: a number; only machines with the same one may be drawn on one pair of axes.
        results: what was measured.
    """

    name: str
    folder: Path
    axes: int
    results: ResultsRecord


class Difference(Record, frozen=True):
    """A condition that is not the same everywhere.

    Attributes:
        condition: its name.
        values: for people, by machine.
        apart: whether it keeps machines off each other's axes.
    """

    condition: str
    values: Mapping[str, str]
    apart: bool


def load_machines(folders: Sequence[Path]) -> tuple[MeasuredMachine, ...]:
    """Read the results of several sweeps, in the order of the folders.

    Args:
        folders: that ``benchmark`` wrote.

    Raises:
        BadInput: a folder without results, or the same results twice.
        BadArtifact: results that are damaged, or of a schema that is not read.
    """
    read: dict[Path, ResultsRecord] = {}
    for index, folder in enumerate(folders):
        found = load_results(folder)
        twin = next((other for other, results in read.items() if results == found), None)
        if twin is not None:
            rest = [*read, *(f for f in folders[index + 1 :] if f not in read)]
            raise BadInput(
                f"holds the same results as {twin}",
                where=folder,
                fix=command("segclip-deploy", "report", *rest, "-o", "OUT.html"),
            )
        read[folder] = found
    parts = [(folder, part) for folder, results in read.items() for part in _by_mode(results)]
    kinds = [_kind(folder, results) for folder, results in parts]
    axes = {kind: number for number, kind in enumerate(dict.fromkeys(kinds), start=1)}
    return tuple(
        MeasuredMachine(name, folder, axes[kind], results)
        for name, kind, (folder, results) in zip(_names(parts), kinds, parts, strict=True)
    )


def _by_mode(results: ResultsRecord) -> list[ResultsRecord]:
    """The results of each power mode: in each of them a board is another machine."""
    modes = results.conditions.power_modes
    return [_in_mode(results, mode) for mode in modes] if modes else [results]


def _in_mode(results: ResultsRecord, mode: str) -> ResultsRecord:
    rows = tuple(row for row in results.rows if row.power_mode == mode)
    names = {row.name for row in rows}
    device = replace(results.conditions.device, power_mode=mode)
    return replace(
        results,
        conditions=replace(results.conditions, device=device, power_modes=()),
        rows=rows,
        recommended=results.recommended if results.recommended in names else None,
        engines={name: path for name, path in results.engines.items() if name in names},
    )


def unlike_conditions(machines: Sequence[MeasuredMachine]) -> tuple[Difference, ...]:
    """Conditions that ought to be alike and are not, the gravest first."""
    told = {machine.name: conditions_of(machine) for machine in machines}
    found = []
    for name in (*_COMPARED, *_shared_libraries(told.values())):
        values = {
            machine: conditions[name] for machine, conditions in told.items() if name in conditions
        }
        known = {value for value in values.values() if value not in (_NONE, _NOT_TOLD)}
        # What is scored on images that are not told may be anything; a power mode that is not there
        # is no difference.
        hidden = name in _APART and _NOT_TOLD in values.values() and len(values) > 1
        if len(known) > 1 or hidden:
            found.append(Difference(condition=name, values=values, apart=name in _APART))
    return tuple(found)


def conditions_of(machine: MeasuredMachine) -> dict[str, str]:
    """In what conditions a machine's rows were measured, for people, by the condition's name."""
    conditions, rows = machine.results.conditions, machine.results.rows
    device = conditions.device
    libraries = {f"library of {row.target}": row.backend for row in rows}
    return {
        "measured": conditions.made,
        "segclip-deploy": device.segclip_deploy,
        "processor": f"{device.cpu.cpu}, {device.cpu.cores} cores",
        "GPU": device.gpu.gpu if device.gpu else _NONE,
        "board": (device.jetson.board if device.jetson else None) or _NONE,
        "power mode": device.power_mode or _NONE,
        "governor": device.governor or _NOT_TOLD,
        "load": _NOT_TOLD if conditions.load is None else f"{conditions.load:g}",
        "system": device.system,
        "Python": device.python,
        **dict(sorted(libraries.items())),
        "dataset": conditions.dataset,
        "split": conditions.split,
        "split for plans": conditions.plan_split or _NONE,
        "images": str(conditions.images),
        "ground truth": _ground_truth(rows)[:12] or _NOT_TOLD,
        "frames": str(conditions.frames),
        "frame sizes": ", ".join(f"{h} × {w}" for h, w in conditions.frame_sizes),
        "window overlap": ", ".join(map(str, sorted({row.overlap for row in rows}))) or _NONE,
        "samples": str(conditions.samples),
        "warm-up": f"{conditions.warm_up} rounds",
    }


def marks_of(machine: MeasuredMachine) -> tuple[str, ...]:
    """What a reader must know before any figure of a machine is believed, in words."""
    conditions = machine.results.conditions
    load, cores = conditions.load, conditions.device.cpu.cores
    found = []
    if load is not None and load > cores:
        found.append(f"busy: a load of {load:g} on {cores} cores")
    if machine.results.rows and not _ground_truth(machine.results.rows):
        found.append(
            "does not say what engines were built from, what they were scored on, and for which mission "
            "(results of schema 3); the same benchmark command says it, and measures nothing anew"
        )
    return tuple(found)


def row_marks(machine: MeasuredMachine, row: Row) -> tuple[str, ...]:
    """What a reader must know before a row is compared with others, in words."""
    conditions = machine.results.conditions
    drift = _drift(row.frame_ms, conditions.frames)
    found = [mark for mark in marks_of(machine) if mark.startswith("busy")]
    if abs(drift) > _STEADY:
        told = f"{100 * drift:+.0f}".replace("-", "−")
        found.append(f"not steady: {told} % from its first half to its second")
    elif row.heat is not None and row.heat.steady is False:
        found.append("not steady: the temperature changed")
    if row.heat is not None and row.heat.causes:
        found.append(f"throttled: {', '.join(row.heat.causes)}")
    if row.precision.startswith("planned") and conditions.plan_split == conditions.split:
        found.append("planned on the images that score it")
    return tuple(found)


def _drift(frame_ms: Sequence[float], frames: int) -> float:
    """How much slower the second half of the rounds is than the first, as a share.

    Args:
        frame_ms: samples, frame by frame and round by round.
        frames: in a round; each is compared with itself.
    """
    rounds = len(frame_ms) // frames if frames else 0
    if rounds < 2:
        return 0.0
    turns = np.reshape(frame_ms[: rounds * frames], (rounds, frames))
    before, after = (np.median(half, axis=0) for half in np.array_split(turns, 2))
    return float(np.mean(after / before) - 1)


def _kind(folder: Path, results: ResultsRecord) -> tuple[object, ...]:
    """What must be equal on one pair of axes; results that do not tell are alone."""
    conditions = results.conditions
    scored = _ground_truth(results.rows) or str(folder)
    return scored, conditions.frames, conditions.frame_sizes


def _ground_truth(rows: Iterable[Row]) -> str:
    """The digest of what rows were scored on; empty if they do not tell one."""
    found = {row.ground_truth_sha256 for row in rows}
    return (found.pop() if len(found) == 1 else None) or ""


def _shared_libraries(told: Iterable[Mapping[str, str]]) -> list[str]:
    """Names of the conditions that are a target's library, of targets that several machines have."""
    count = Counter(
        name for conditions in told for name in conditions if name.startswith("library")
    )
    return sorted(name for name, times in count.items() if times > 1)


def _names(parts: Sequence[tuple[Path, ResultsRecord]]) -> list[str]:
    """A name for each machine; where two share one, with their folder's."""
    plain = []
    for _, results in parts:
        device = results.conditions.device
        short = re.sub(r"NVIDIA | Engineering Reference| Developer Kit", "", device.name)
        plain.append(f"{short}, {device.power_mode}" if device.power_mode else short)
    for of_folder in (lambda folder: folder.name, str):
        shared = Counter(plain)
        plain = [
            f"{name} ({of_folder(folder)})" if shared[name] > 1 else name
            for name, (folder, _) in zip(plain, parts, strict=True)
        ]
    return plain
