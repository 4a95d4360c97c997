"""The report: one HTML file that needs no network, results.json, a CSV, and the pictures."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from segclip_deploy._optional import require
from segclip_deploy.artifacts.files import replace_file, write_json
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.runtime.engine import open_segmenter
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.tradeoff.mission import Demand, Mission, demand
from segclip_deploy.tradeoff.pictures import (
    class_changes,
    latencies,
    lower_bounds,
    panel,
    stage_bars,
    tradeoff,
)
from segclip_deploy.tradeoff.recommend import Recommendation
from segclip_deploy.tradeoff.roofline import BOARDS, Bound
from segclip_deploy.tradeoff.row import Row
from segclip_deploy.tradeoff.sweep import Sweep

__all__ = ["REPORT_SCHEMA", "Extras", "write_report"]

REPORT_SCHEMA = 1

_WORST = 3  # images shown


@dataclass(frozen=True)
class Extras:
    """What a report shows besides what was measured.

    Attributes:
        bounds: of boards that are not here.
        mission: to keep up with.
        sensitivities: PNG files, heat maps by block.
    """

    bounds: Sequence[Bound] = ()
    mission: Mission | None = None
    sensitivities: Sequence[Path] = ()


def write_report(
    out: Path,
    sweep: Sweep,
    advice: Recommendation,
    *,
    rank: float,
    dataset: Dataset,
    conditions: Mapping[str, Any],
    extras: Extras,
) -> Path:
    """Write ``report.html``, ``results.json``, ``results.csv`` and the pictures into a folder.

    Args:
        out: the folder; it exists.
        sweep: what was measured.
        advice: which engine to fly.
        rank: the percentile of latency that counts.
        dataset: for the images where engines disagree most; ``conditions["split"]`` of it.
        conditions: of measurement.
        extras: what else to show.

    Returns:
        The HTML file.
    """
    rows = sorted(sweep.rows, key=lambda row: row.percentile(rank))
    by_name = {row.name: row for row in rows}
    references = {name: by_name[other] for name, other in sweep.references.items()}
    pictures = {
        "tradeoff": tradeoff(rows, rank, best=advice.row),
        "stages": stage_bars(rows),
        "latencies": latencies(rows, rank),
        "classes": class_changes(rows, references),
    }
    if extras.bounds:
        pictures["bounds"] = lower_bounds(extras.bounds)
    for name, data in pictures.items():
        with replace_file(out / f"{name}.png") as temporary:
            temporary.write_bytes(data)
    missions = _missions(rows, extras.mission, rank)
    _write_results(out, sweep, advice, conditions, extras, missions)
    values = {
        "title": f"{dataset.vocabulary.title}: accuracy against latency",
        "best": advice.row,
        "why": advice.why,
        "engine": sweep.engines[advice.row.name] if advice.row else None,
        "rows": rows,
        "failures": sweep.failures,
        "rank": f"{rank:g}" if rank != int(rank) else int(rank),
        "speed": {r.name: references[r.name].percentile(50) / r.percentile(50) for r in rows},
        "joules": any(row.joules is not None for row in rows),
        "classes": dataset.vocabulary.names,
        "pictures": {name: _embedded(data) for name, data in pictures.items()},
        "worst": _worst(sweep, advice, references, dataset, str(conditions["split"])),
        "sensitivities": [_embedded(path.read_bytes()) for path in extras.sensitivities],
        "bounds": extras.bounds,
        "boards": BOARDS,
        "missions": missions,
        "mission_text": _mission_text(extras.mission, rows) if missions else "",
        "conditions": conditions,
    }
    jinja2 = require("jinja2", why="a report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    page = out / "report.html"
    with replace_file(page) as temporary:
        temporary.write_text(environment.from_string(template).render(values), encoding="utf-8")
    return page


def _write_results(
    out: Path,
    sweep: Sweep,
    advice: Recommendation,
    conditions: Mapping[str, Any],
    extras: Extras,
    missions: Sequence[Mapping[str, Any]],
) -> None:
    """The same for programs (docs/benchmark.md has the schema)."""
    record = {
        "schema": REPORT_SCHEMA,
        "conditions": dict(conditions),
        "recommended": advice.row.name if advice.row else None,
        "why": advice.why,
        "rows": [{**row.to_json(), "reference": sweep.references[row.name]} for row in sweep.rows],
        "failures": [vars(failure) for failure in sweep.failures],
        "engines": {name: str(path) for name, path in sweep.engines.items()},
        "bounds": [one.to_json() for one in extras.bounds],
        "mission": list(missions),
    }
    write_json(out / "results.json", record)
    text = io.StringIO()
    writer = csv.writer(text)
    columns = ("name", "target", "precision", "threads", "overlap", "windows", "bytes", "miou")
    writer.writerow([*columns, "drop", "drop_low", "drop_high", "p50_ms", "p99_ms", "sha256"])
    for row in sweep.rows:
        writer.writerow(
            [
                *(getattr(row, column) for column in columns),
                *(row.drop.value, row.drop.low, row.drop.high),
                *(row.percentile(50), row.percentile(99), row.sha256),
            ]
        )
    with replace_file(out / "results.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _missions(rows: Sequence[Row], mission: Mission | None, rank: float) -> list[dict[str, Any]]:
    if mission is None:
        return []
    found = []
    for row in rows:
        asked = demand(mission, row.window, row.overlap)
        has = 1e3 * row.windows / row.percentile(rank)
        needed = asked.windows_per_second
        found.append(
            {
                "name": row.name,
                "windows": asked.windows,
                "needed": needed,
                "has": has,
                "margin": has / needed,
            }
        )
    return found


def _mission_text(mission: Mission | None, rows: Sequence[Row]) -> str:
    if mission is None:
        return ""
    asked: Demand = demand(mission, rows[0].window, rows[0].overlap)
    along, across = asked.footprint
    return (
        f"{mission.altitude:g} m above ground at {mission.speed:g} m/s, "
        f"{mission.sensor.width} × {mission.sensor.height} pixels: "
        f"{100 * asked.ground_sample_distance:.1f} cm a pixel, a photo covers "
        f"{across:.0f} × {along:.0f} m, overlap {mission.front:.0%} along and {mission.side:.0%} "
        f"across; a photo every {asked.interval:.2f} s, "
        f"{asked.square_kilometres_per_hour:.1f} km² an hour."
    )


def _worst(
    sweep: Sweep,
    advice: Recommendation,
    references: Mapping[str, Row],
    dataset: Dataset,
    split: str,
) -> list[dict[str, Any]]:
    """Images where the recommended engine, or if that is FP32 the fastest other, and FP32 differ."""
    others = [row for row in sweep.rows if row.precision != "fp32"]
    row = advice.row if advice.row in others else min(others, key=_typical, default=None)
    if row is None:
        return []
    reference = references[row.name]
    found = []
    with (
        _open(sweep, row) as segmenter,
        _open(sweep, reference) as other,
    ):
        for sample in dataset.samples(split):
            labels, before = (s.segment(sample.frame).labels for s in (segmenter, other))
            found.append((float(np.mean(labels != before)), sample, before, labels))
            found = sorted(found, key=lambda one: -one[0])[:_WORST]
    precision = row.precision.split()[0]
    titles = ("image", "truth", reference.precision, precision, "where these two differ")
    return [
        {
            "name": sample.name,
            "share": share,
            "reference": reference.name,
            "row": row.name,
            "picture": _embedded(
                panel(sample.frame.pixels, sample.truth, before, labels, dataset.vocabulary, titles)
            ),
        }
        for share, sample, before, labels in found
    ]


def _open(sweep: Sweep, row: Row) -> Segmenter:
    """As it was measured."""
    return open_segmenter(sweep.engines[row.name], overlap=row.overlap, threads=row.threads)


def _typical(row: Row) -> float:
    return row.percentile(50)


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
