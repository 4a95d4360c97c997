"""Results of several machines side by side, as ``report`` tells them."""

from __future__ import annotations

from segclip_deploy.artifacts.plan import Drop
from segclip_deploy.artifacts.records import Record
from segclip_deploy.tradeoff.measured_machine import Difference
from segclip_deploy.tradeoff.mission import Margin, Mission
from segclip_deploy.tradeoff.roofline import LowerBound

__all__ = [
    "RANK",
    "Int8Gain",
    "Joined",
    "JoinedMission",
    "JoinedRow",
    "MachineFront",
    "MeasuredBound",
    "RowMargin",
    "SharedArtifact",
]

RANK = 99.0
"""The percentile of latency that fronts and missions count, of all machines."""


class JoinedRow(Record, frozen=True):
    """A row of one of the machines.

    Attributes:
        machine, axes: as of ``MeasuredMachine``.
        name, target, precision, window, overlap, threads, miou, drop, joules, backend: as of ``Row``.
        p50_ms, p99_ms: percentiles of the milliseconds a frame.
        p99_interval: 95 % bounds of ``p99_ms``, from resampling the frames.
        marks: what a reader must know before it is compared with others, in words.
    """

    machine: str
    axes: int
    name: str
    target: str
    precision: str
    window: tuple[int, int]
    overlap: int
    threads: int
    miou: float
    drop: Drop
    joules: float | None
    backend: str
    p50_ms: float
    p99_ms: float
    p99_interval: tuple[float, float]
    marks: tuple[str, ...]


class MachineFront(Record, frozen=True):
    """A machine, its rows, and which of them none of the others beats in both mIoU and latency.

    Attributes:
        machine, axes: as of ``MeasuredMachine``.
        folder: of its results.
        rows: all that were measured, the fastest first.
        front: names of those that no other beats, the fastest first.
        failures: how many engines must not fly.
        recommended: name of the row that its own sweep recommends; None where none kept the limits.
        marks: what a reader must know before any figure of it is believed, in words.
    """

    machine: str
    axes: int
    folder: str
    rows: tuple[JoinedRow, ...]
    front: tuple[str, ...]
    failures: int
    recommended: str | None
    marks: tuple[str, ...]

    @property
    def front_rows(self) -> tuple[JoinedRow, ...]:
        """The rows of the front, the fastest first."""
        return tuple(row for row in self.rows if row.name in self.front)


class SharedArtifact(Record, frozen=True):
    """Engines of several machines that were built from the very same bundle.

    Attributes:
        bundle_sha256: of the bundle's record.
        precision: of the bundle.
        overlap: pixels windows share.
        rows: by axes, then the fastest first.
        times: p50 of each row over that of the fastest on the same axes.
        miou_spread: greatest difference of mIoU between rows on the same axes, in points.
    """

    bundle_sha256: str
    precision: str
    overlap: int
    rows: tuple[JoinedRow, ...]
    times: tuple[float, ...]
    miou_spread: float

    @property
    def label(self) -> str:
        """A name for people: precision, window, overlap, and the digest it is known by."""
        height, width = self.rows[0].window
        told = f"{self.precision}, {height} × {width}, overlap {self.overlap}"
        return f"{told}, {self.bundle_sha256[:12]}"


class Int8Gain(Record, frozen=True):
    """How many times faster INT8, or a planned mix, is than FP16 of the same bundle on the same machine.

    Attributes:
        row: in INT8 or planned.
        fp16: the row it is compared with; None, as what follows, where FP16 was not measured.
        times: p50 of FP16 over p50 of this row.
        interval: 95 % bounds of that, from resampling the frames of both.
        points: mIoU of this row less that of FP16, in points.
    """

    row: JoinedRow
    fp16: JoinedRow | None
    times: float | None
    interval: tuple[float, float] | None
    points: float | None


class RowMargin(Record, frozen=True):
    """Whether an engine of a machine keeps up with a mission.

    Attributes:
        row: the engine.
        margin: at the percentile ``RANK``.
    """

    row: JoinedRow
    margin: Margin


class JoinedMission(Record, frozen=True):
    """What a mission asks of every machine's engines.

    Attributes:
        flight: the mission.
        margins: machine by machine, the greatest margin first.
    """

    flight: Mission
    margins: tuple[RowMargin, ...]


class MeasuredBound(Record, frozen=True):
    """A lower bound, beside what was measured on such a board.

    Attributes:
        bound: milliseconds a window, computed.
        row: the fastest of that bundle and precision on such a board; None where none was measured.
        ms: median milliseconds a window of the row's stage ``infer``; None without a row.
    """

    bound: LowerBound
    row: JoinedRow | None
    ms: float | None


class Joined(Record, frozen=True):
    """Results of several machines side by side.

    Attributes:
        machines: in the order they were given.
        differences: conditions that ought to be alike and are not.
        shared: equal artefacts on several machines.
        quantized_apart: what has one FP32 bundle and one precision on several machines, but no bundle
            in common, in words.
        gains: INT8 over FP16, machine by machine.
        missions: each once.
        bounds: each once.
    """

    machines: tuple[MachineFront, ...]
    differences: tuple[Difference, ...]
    shared: tuple[SharedArtifact, ...]
    quantized_apart: tuple[str, ...]
    gains: tuple[Int8Gain, ...]
    missions: tuple[JoinedMission, ...]
    bounds: tuple[MeasuredBound, ...]
