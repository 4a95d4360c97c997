"""``benchmark``: make, check, score and time every point of a grid; a killed sweep goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from segclip_deploy.artifacts.engine import Engine
from segclip_deploy.artifacts.records import replace
from segclip_deploy.errors import BadArtifact, GateFailed
from segclip_deploy.evaluation.accuracy import Accuracy, miou_drop
from segclip_deploy.progress import Report
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.inference.window_fit import WindowGrid, pixel_ratio
from segclip_deploy.runtime.inference.windows import flight_overlap
from segclip_deploy.tradeoff.artifact_cache import ArtifactCache, digest_of
from segclip_deploy.tradeoff.measure_points import (
    measure_accuracy,
    measure_energy,
    measure_latency,
)
from segclip_deploy.tradeoff.row import FailedPoint, Row
from segclip_deploy.tradeoff.state import Energy, Latency
from segclip_deploy.tradeoff.sweep_grid import Point, SweepGrid, points

__all__ = ["Steps", "Sweep", "count_steps", "run_sweep"]


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        rows: of the points that passed verification.
        failures: the other points.
        engines: files of the rows, by name.
        accuracies: of the rows, by name.
    """

    rows: tuple[Row, ...]
    failures: tuple[FailedPoint, ...]
    engines: Mapping[str, Path]
    accuracies: Mapping[str, Accuracy]


@dataclass(frozen=True)
class Steps:
    """What a sweep has to do.

    Attributes:
        points: of the grid.
        engines: files they need.
        engines_made: that are there already.
        engines_to_make: that are not.
        samples_of_latency: that will be taken.
    """

    points: int
    engines: int
    engines_made: int
    engines_to_make: int
    samples_of_latency: int

    def to_json(self) -> dict[str, int]:
        """As JSON."""
        return asdict(self)


def count_steps(grid: SweepGrid, cache: ArtifactCache, samples: int) -> Steps:
    """What a sweep of a grid has to do."""
    wanted = points(grid)
    paths = {cache.engine_path(point) for point in wanted}
    made = sum(path.is_file() for path in paths)
    return Steps(len(wanted), len(paths), made, len(paths) - made, samples * len(wanted))


def run_sweep(
    grid: SweepGrid,
    cache: ArtifactCache,
    *,
    split: str,
    samples: int,
    frames: Sequence[Frame],
    report: Report,
) -> Sweep:
    """Measure every point of a grid.

    Args:
        grid: what varies.
        cache: makes the engines and keeps everything.
        split: of the cache's dataset, that reports accuracy.
        samples: of latency, a point.
        frames: that latency is measured on.
        report: of progress.

    Raises:
        BadInput: something a point needs is missing.
        SegclipError: whatever making an engine raises; but a point that misses a gate, or that a target
            refuses, is a failure of the sweep's result, unless it leaves nothing to measure.
    """
    wanted = points(grid)
    engines, failures = _engines(wanted, cache, report)
    accuracies: dict[Point, Accuracy] = {}
    for index, (point, engine) in enumerate(engines.items()):
        report(f"scoring {point.name}", index, len(engines))
        key = digest_of(cache.recipe(point), point.overlap, point.threads, split, cache.data_digest)
        path = cache.root / "accuracy" / f"{key}.json"
        accuracies[point] = measure_accuracy(
            path, point, engine, cache.open_dataset(engine.vocabulary), split
        )
    latencies, energies = _costs(engines, cache, frames, samples, report)
    own = {point: _own_fp32(point, list(engines)) or point for point in engines}
    references = {point: _reference(point, engines) or point for point in engines}
    rows = tuple(
        _row(
            point,
            engine,
            own[point],
            references[point],
            accuracies[point],
            accuracies[references[point]],
            latencies[point],
            energies[point],
            frames,
        )
        for point, engine in engines.items()
    )
    return Sweep(
        rows,
        failures,
        {point.name: engine.path for point, engine in engines.items()},
        {point.name: accuracies[point] for point in engines},
    )


def _engines(
    wanted: Sequence[Point], cache: ArtifactCache, report: Report
) -> tuple[dict[Point, Engine], tuple[FailedPoint, ...]]:
    """Make the engines; those that fail, or have no FP32 left to be compared with, are told."""
    engines: dict[Point, Engine] = {}
    failures: list[FailedPoint] = []
    first: GateFailed | BadArtifact | None = None
    cache.make_tables(wanted)
    for index, point in enumerate(wanted):
        report(f"making {point.name}", index, len(wanted))
        try:
            engines[point] = cache.engine(point)
        except (GateFailed, BadArtifact) as error:
            first = first or error
            failures.append(FailedPoint(name=point.name, why=str(error)))
    for point in list(engines):
        if _reference(point, engines) is None:
            del engines[point]
            why = "its FP32 engine failed, and there is nothing to compare it with"
            failures.append(FailedPoint(name=point.name, why=why))
    if first is not None and not engines:
        raise first
    return engines, tuple(failures)


def _costs(
    engines: Mapping[Point, Engine],
    cache: ArtifactCache,
    frames: Sequence[Frame],
    samples: int,
    report: Report,
) -> tuple[dict[Point, Latency], dict[Point, Energy]]:
    """Latency and energy of every point, on the same frames."""
    if not engines:
        return {}, {}
    seen = [(f.pixels.shape, hashlib.sha256(f.pixels.tobytes()).hexdigest()) for f in frames]
    keys = {
        point: digest_of(cache.recipe(point), point.overlap, point.threads, seen)
        for point in engines
    }

    def files(kind: str) -> dict[Path, tuple[Point, Engine]]:
        folder = cache.root / kind
        return {folder / f"{keys[p]}.json": (p, engine) for p, engine in engines.items()}

    timed = measure_latency(files("latency"), frames, samples, report)
    spent = measure_energy(files("energy"), frames, report)
    return (
        dict(zip(engines, timed.values(), strict=True)),
        dict(zip(engines, spent.values(), strict=True)),
    )


def _own_fp32(point: Point, measured: Sequence[Point]) -> Point | None:
    """The FP32 engine of the same bundle, target and overlap; of any target where that failed."""
    candidates = [
        other
        for other in measured
        if other.precision == "fp32"
        and (other.bundle, other.overlap) == (point.bundle, point.overlap)
        and other.threads in (point.threads, 0)
    ]
    same = (other for other in candidates if other.target == point.target)
    return next(same, candidates[0] if candidates else None)


def _reference(point: Point, engines: Mapping[Point, Engine]) -> Point | None:
    """The FP32 engine that a point is compared with: its own, or of what its network was compacted from.

    Of the latter there may be several: one of the same target, input and overlap goes first.
    """
    own, record = _own_fp32(point, list(engines)), engines[point].record.bundle
    if own is None or record.parents.whole is None:
        return own

    def likeness(other: Point) -> tuple[bool, bool, bool]:
        taken = engines[other].input
        same = (taken.height, taken.width) == (record.input.height, record.input.width)
        return other.target == point.target, same, other.overlap == point.overlap

    whole = [
        other
        for other, engine in engines.items()
        if other.precision == "fp32"
        and engine.record.bundle.parents.checkpoint == record.parents.whole
    ]
    return _reference(max(whole, key=likeness), engines) if whole else None


def _row(
    point: Point,
    engine: Engine,
    own: Point,
    reference: Point,
    accuracy: Accuracy,
    before: Accuracy,
    latency: Latency,
    energy: Energy,
    frames: Sequence[Frame],
) -> Row:
    overlap = flight_overlap(engine.input) if point.overlap is None else point.overlap
    laid = replace(engine.input, overlap=overlap)
    shapes = [(frame.pixels.shape[0], frame.pixels.shape[1]) for frame in frames]
    return Row(
        name=point.name,
        reference=reference.name,
        fp32=own.name,
        target=point.target,
        precision=point.precision_told,
        window=(engine.input.height, engine.input.width),
        batch=engine.input.batch,
        overlap=overlap,
        threads=point.threads or int(engine.record.built.settings.get("threads", 0)),
        bytes=engine.record.bytes,
        sha256=engine.record.engine_sha256,
        bundle_sha256=engine.record.bundle_sha256,
        ground_truth_sha256=accuracy.ground_truth_sha256,
        miou=accuracy.confusion.miou,
        drop=miou_drop(before, accuracy),
        iou=accuracy.confusion.class_iou,
        areas=_area_change(accuracy, before),
        frame_ms=latency.frame_ms,
        windows=float(np.mean(latency.windows)),
        pixel_ratio=round(pixel_ratio(WindowGrid(shape, laid) for shape in shapes), 4),
        stages={name: round(median(values), 4) for name, values in latency.stages.items()},
        backend=latency.backend,
        joules=energy.joules,
        joules_above_idle=energy.above_idle,
        idle=energy.idle,
        power_mode=point.power_mode,
        heat=latency.heat,
    )


def _area_change(accuracy: Accuracy, reference: Accuracy) -> dict[str, float | None]:
    """Pixels labelled with each class, relative to the reference's, less 1."""
    now, before = (one.confusion.counts.sum(0) for one in (accuracy, reference))
    return {
        name: float(a / b - 1) if b else None
        for name, a, b in zip(accuracy.confusion.names, now, before, strict=True)
    }
