"""What a sweep says to programs: ``results.json``, and a line a row in ``results.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.artifacts.records import Format, Record
from segclip_deploy.runtime.profiling.conditions import DeviceConditions
from segclip_deploy.runtime.profiling.heat import HeatSpan
from segclip_deploy.runtime.profiling.measure import rename_restore
from segclip_deploy.tradeoff.mission import Margin
from segclip_deploy.tradeoff.roofline import LowerBound
from segclip_deploy.tradeoff.row import FailedPoint, Row

__all__ = ["RESULTS", "ResultsRecord", "SweepConditions", "write_results"]


class SweepConditions(Record, frozen=True):
    """Where and how the rows were measured.

    Attributes:
        made: when, local time.
        device: the machine.
        load: processes that wanted the processor in the last minute; None where it is unknown.
        dataset: folder of the images for evaluation.
        split: the part of the dataset that is evaluated.
        plan_split: the part that planned mixes were chosen on; None where nothing was planned. If it
            is ``split``, the accuracy of planned mixes looks better than it is.
        images: how many there are in the split.
        frames: how many of them latency was measured on.
        frame_sizes: (height, width) of these, each once, pixels.
        samples: of latency, how many a row has at least.
        warm_up: rounds over all rows and frames that did not count, at least.
        points: how many the grid has, failures included.
        power_modes: that the rows were measured in, in their order; empty where none was switched.
        ambient: °C around the machine, as the user said; None where nobody said it.
    """

    made: str
    device: DeviceConditions
    load: float | None
    dataset: str
    split: str
    plan_split: str | None
    images: int
    frames: int
    frame_sizes: tuple[tuple[int, int], ...]
    samples: int
    warm_up: int
    points: int
    power_modes: tuple[str, ...] = ()
    ambient: float | None = None


class ResultsRecord(Record, frozen=True):
    """A sweep, and which of its engines to fly.

    Attributes:
        conditions: where and how the rows were measured.
        recommended: name of the row to fly; None where none keeps the limits.
        why: the recommendation in words, with figures.
        rows: the engines that passed verification, every sample included.
        failures: the other engines.
        engines: file of each row, by name.
        bounds: lower bounds on latency, of boards that are not here.
        mission: the margin of each row, the fastest first; empty where no mission was given.
    """

    conditions: SweepConditions
    recommended: str | None
    why: str
    rows: tuple[Row, ...]
    failures: tuple[FailedPoint, ...]
    engines: Mapping[str, str]
    bounds: tuple[LowerBound, ...]
    mission: tuple[Margin, ...]


def _of_schema_2(data: dict[str, Any]) -> dict[str, Any]:
    rows = [{**row, "stages": rename_restore(row["stages"])} for row in data["rows"]]
    conditions = {**data["conditions"], "plan_split": "plan"}  # it was never another
    return {**data, "rows": rows, "conditions": conditions}


def _of_schema_3(data: dict[str, Any]) -> dict[str, Any]:
    return data  # no heat, no power modes: what is new is None, or empty


RESULTS = Format(
    "results of a benchmark",
    ResultsRecord,
    schema=4,
    migrations={2: _of_schema_2, 3: _of_schema_3},
)
"""Of ``results.json``."""


def write_results(out: Path, results: ResultsRecord) -> None:
    """Write ``results.json`` and ``results.csv`` into a folder."""
    RESULTS.write(out / "results.json", results)
    text = io.StringIO()
    writer = csv.writer(text)
    columns = ("name", "target", "precision", "threads", "overlap", "windows", "bytes", "miou")
    costs = ("p50_ms", "p99_ms", "joules", "joules_above_idle")
    heat = ("power_mode", "celsius_before", "celsius_after", "steady", "throttled_by")
    writer.writerow([*columns, "drop", "drop_low", "drop_high", *costs, *heat, "sha256"])
    for row in results.rows:
        writer.writerow(
            [
                *(row.name, row.target, row.precision, row.threads, row.overlap, row.windows),
                *(row.bytes, row.miou, row.drop.value, row.drop.low, row.drop.high),
                *(row.percentile(50), row.percentile(99), row.joules, row.joules_above_idle),
                *(row.power_mode, *_heat_cells(row.heat), row.sha256),
            ]
        )
    with replace_file(out / "results.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _heat_cells(heat: HeatSpan | None) -> tuple[object, ...]:
    """Temperatures, whether they were steady, and what took clocks away; empty where nothing tells."""
    if heat is None:
        return (None,) * 4
    causes = None if heat.causes is None else " ".join(heat.causes) or "nothing"
    return heat.before.hottest, heat.after.hottest, heat.steady, causes
