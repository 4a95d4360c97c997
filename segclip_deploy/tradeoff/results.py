"""What a sweep says to programs: ``results.json``, and a line a row in ``results.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.artifacts.records import Format, Record
from segclip_deploy.errors import BadArtifact, BadInput, command
from segclip_deploy.runtime.profiling.conditions import DeviceConditions
from segclip_deploy.runtime.profiling.heat import HeatSpan
from segclip_deploy.runtime.profiling.measure import rename_restore
from segclip_deploy.tradeoff.comparison import EngineComparison
from segclip_deploy.tradeoff.mission import Margin, Mission
from segclip_deploy.tradeoff.roofline import LowerBound
from segclip_deploy.tradeoff.row import FailedPoint, Row

__all__ = [
    "RESULTS",
    "RESULTS_FILE",
    "ResultsRecord",
    "SweepConditions",
    "load_results",
    "write_results",
]

RESULTS_FILE = "results.json"
"""In the folder of a sweep."""


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
        frame_folder: of the frames that latency was measured on; None: images of the split.
        frames: how many latency was measured on.
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
    frame_folder: str | None
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
        flight: the mission that the margins are of; None where none was given, and in results of
            schema 3 and older.
        mission: the margin of each row, the fastest first; empty where no mission was given.
        comparisons: of the recommended row with each other one; of the one that misses least where
            none is recommended. Empty in results of before, and where there is one row.
    """

    conditions: SweepConditions
    recommended: str | None
    why: str
    rows: tuple[Row, ...]
    failures: tuple[FailedPoint, ...]
    engines: Mapping[str, str]
    bounds: tuple[LowerBound, ...]
    flight: Mission | None
    mission: tuple[Margin, ...]
    comparisons: tuple[EngineComparison, ...] = ()


def _of_schema_2(data: dict[str, Any]) -> dict[str, Any]:
    rows = [{**row, "stages": rename_restore(row["stages"])} for row in data["rows"]]
    conditions = {**data["conditions"], "plan_split": "plan"}  # it was never another
    return {**data, "rows": rows, "conditions": conditions}


def _of_schema_3(data: dict[str, Any]) -> dict[str, Any]:
    """Nothing said what engines were made of, what they were scored on, or which mission was flown.

    Frames could be those of the dataset only.
    """
    unknown = {"bundle_sha256": None, "ground_truth_sha256": None, "pixel_ratio": None}
    rows = [{**row, **unknown} for row in data["rows"]]
    bounds = [{**bound, "bundle_sha256": None} for bound in data["bounds"]]
    conditions = {**data["conditions"], "frame_folder": None}
    return {**data, "rows": rows, "bounds": bounds, "conditions": conditions, "flight": None}


RESULTS = Format(
    "results of a benchmark",
    ResultsRecord,
    schema=4,
    migrations={2: _of_schema_2, 3: _of_schema_3},
)
"""Of ``results.json``."""


def load_results(folder: Path) -> ResultsRecord:
    """Read what ``write_results`` put into a folder.

    Raises:
        BadInput: no folder, or one without results.
        BadArtifact: they are damaged, or of a schema that is not read.
    """
    path = folder / RESULTS_FILE
    fix = command("segclip-deploy", "benchmark", "BUNDLE", "--eval", "DATASET", "-o", folder)
    if folder.is_file():
        raise BadInput(
            "a file, not the folder of a sweep", where=folder, fix=f"give {folder.parent}"
        )
    if (folder / "work").is_dir() and not path.is_file():
        what = f"its sweep has not ended, there is no {RESULTS_FILE}"
        raise BadInput(what, where=folder, fix=f"the command that began it goes on: {fix}")
    if not path.is_file():
        raise BadInput(f"no folder of a sweep, it has no {RESULTS_FILE}", where=folder, fix=fix)
    results = RESULTS.read(path, fix=fix)
    names = {row.name for row in results.rows}
    for row in results.rows:
        if not {row.reference, row.own_fp32} <= names or not row.frame_ms or not row.windows > 0:
            what = f"row {row.name!r} has no reference, no samples or no windows"
            raise BadArtifact(what, where=path, fix=fix)
    return results


def write_results(out: Path, results: ResultsRecord) -> None:
    """Write ``results.json`` and ``results.csv`` into a folder."""
    RESULTS.write(out / RESULTS_FILE, results)
    text = io.StringIO()
    writer = csv.writer(text)
    columns = ("name", "target", "precision", "threads", "overlap", "windows", "bytes", "miou")
    costs = ("p50_ms", "p99_ms", "joules", "joules_above_idle")
    heat = ("power_mode", "celsius_before", "celsius_after", "steady", "throttled_by")
    last = ("sha256", "pixel_ratio")
    writer.writerow([*columns, "drop", "drop_low", "drop_high", *costs, *heat, *last])
    for row in results.rows:
        writer.writerow(
            [
                *(row.name, row.target, row.precision, row.threads, row.overlap, row.windows),
                *(row.bytes, row.miou, row.drop.value, row.drop.low, row.drop.high),
                *(row.percentile(50), row.percentile(99), row.joules, row.joules_above_idle),
                *(row.power_mode, *_heat_cells(row.heat), row.sha256, row.pixel_ratio),
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
