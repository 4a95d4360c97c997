"""The report: one HTML file that needs no network, and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.open_engine import open_segmenter
from segclip_deploy.tradeoff.heat_notes import heat_notes
from segclip_deploy.tradeoff.mission import Mission, mission_text
from segclip_deploy.tradeoff.page import embedded_png, render_page
from segclip_deploy.tradeoff.pareto_plot import tradeoff
from segclip_deploy.tradeoff.picture_texts import describe_pictures
from segclip_deploy.tradeoff.plots import (
    class_changes,
    latencies,
    lower_bounds,
    panel,
    stage_bars,
)
from segclip_deploy.tradeoff.results import ResultsRecord, SweepConditions
from segclip_deploy.tradeoff.roofline import BOARDS
from segclip_deploy.tradeoff.row import Row

__all__ = ["write_report"]

_WORST = 3  # images shown


def write_report(
    out: Path,
    results: ResultsRecord,
    *,
    rank: float,
    dataset: Dataset,
    mission: Mission | None = None,
    sensitivities: Sequence[Path] = (),
) -> Path:
    """Write ``report.html`` and its pictures into a folder.

    Args:
        out: the folder; it exists.
        results: what was measured, and which engine to fly.
        rank: the percentile of latency that counts.
        dataset: for the images where engines disagree most; the split of the results.
        mission: that the margins of the results are of.
        sensitivities: PNG files, heat maps by block.

    Returns:
        The HTML file.
    """
    rows = sorted(results.rows, key=lambda row: row.percentile(rank))
    by_name = {row.name: row for row in rows}
    references = {row.name: by_name[row.reference] for row in rows}
    best = by_name[results.recommended] if results.recommended else None
    pictures = {
        "tradeoff": tradeoff(rows, rank, results.comparisons, best=best),
        "stages": stage_bars(rows),
        "latencies": latencies(rows, rank),
        "classes": class_changes(rows, references),
    }
    if results.bounds:
        pictures["bounds"] = lower_bounds(results.bounds)
    for name, data in pictures.items():
        with replace_file(out / f"{name}.png") as temporary:
            temporary.write_bytes(data)
    values = {
        "title": f"{dataset.vocabulary.title}: accuracy against latency",
        "best": best,
        "why": results.why,
        "engine": results.engines[best.name] if best else None,
        "rows": rows,
        "failures": results.failures,
        "comparisons": sorted(results.comparisons, key=lambda one: one.speed_up.value),
        "centre": results.comparisons[0].engine if results.comparisons else rows[0].name,
        "rank": f"{rank:g}" if rank != int(rank) else int(rank),
        "speed": {r.name: references[r.name].percentile(50) / r.percentile(50) for r in rows},
        "joules": any(row.joules is not None for row in rows),
        "heat": [row for row in rows if row.heat],
        "heat_notes": heat_notes(rows),
        "classes": dataset.vocabulary.names,
        "legend": dataset.vocabulary.classes,
        "pictures": {name: embedded_png(data) for name, data in pictures.items()},
        "texts": describe_pictures(rows, rank, references, best=best, bounds=results.bounds),
        "worst": _worst(results, best, references, dataset),
        "sensitivities": [embedded_png(path.read_bytes()) for path in sensitivities],
        "bounds": results.bounds,
        "boards": BOARDS,
        "missions": results.mission,
        "mission_text": mission_text(mission) if mission and rows else "",
        "conditions": _told(results.conditions),
    }
    page = out / "report.html"
    with replace_file(page) as temporary:
        temporary.write_text(render_page("report.html", values), encoding="utf-8")
    return page


def _told(conditions: SweepConditions) -> dict[str, object]:
    """The conditions, for people."""
    cpu, gpu = conditions.device.cpu, conditions.device.gpu
    return {
        "made": conditions.made,
        "processor": f"{cpu.cpu}, {cpu.cores} cores ({' '.join(cpu.flags)})",
        "gpu": gpu and gpu.gpu,
        "power_mode": conditions.device.power_mode,
        "power_modes": ", ".join(conditions.power_modes) or None,
        "ambient": None if conditions.ambient is None else f"{conditions.ambient:g} °C",
        "load": conditions.load,
        "dataset": conditions.dataset,
        "split": conditions.split,
        "plan_split": conditions.plan_split,
        "images": conditions.images,
        "frames": conditions.frames,
        "frame_folder": conditions.frame_folder,
        "frame_size": ", ".join(f"{h} × {w}" for h, w in conditions.frame_sizes),
        "samples": conditions.samples,
        "warm_up": conditions.warm_up,
        "points": conditions.points,
        "version": conditions.device.segclip_deploy,
    }


def _worst(
    results: ResultsRecord,
    best: Row | None,
    references: Mapping[str, Row],
    dataset: Dataset,
) -> list[dict[str, Any]]:
    """Images where the recommended engine, or if that is FP32 the fastest other, and FP32 differ."""
    others = [row for row in results.rows if row.precision != "fp32"]
    row = best if best in others else min(others, key=_typical, default=None)
    if row is None:
        return []
    reference = references[row.name]
    found = []
    with (
        _open(results, row) as segmenter,
        _open(results, reference) as other,
    ):
        for sample in dataset.samples(results.conditions.split):
            labels, before = (s.segment(sample.frame).labels for s in (segmenter, other))
            found.append((float(np.mean(labels != before)), sample, before, labels))
            found = sorted(found, key=lambda one: -one[0])[:_WORST]
    precision = row.precision.split()[0]
    titles = ("image", "ground truth", reference.precision, precision, "where these two differ")
    return [
        {
            "name": sample.name,
            "share": share,
            "reference": reference.name,
            "row": row.name,
            "picture": embedded_png(
                panel(
                    sample.frame.pixels,
                    sample.ground_truth,
                    before,
                    labels,
                    dataset.vocabulary,
                    titles,
                )
            ),
        }
        for share, sample, before, labels in found
    ]


def _open(results: ResultsRecord, row: Row) -> Segmenter:
    """As it was measured."""
    engine = Path(results.engines[row.name])
    return open_segmenter(engine, overlap=row.overlap, threads=row.threads)


def _typical(row: Row) -> float:
    return row.percentile(50)
