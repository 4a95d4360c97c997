"""From what a user asks to a report: grid, sweep, recommendation, pages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.dataset import Dataset, open_dataset
from segclip_deploy.export.costs import find_operators
from segclip_deploy.export.onnx_model import check_fp32
from segclip_deploy.progress import Report
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.runtime.profiling.conditions import device_conditions, load_average
from segclip_deploy.tradeoff.artifact_cache import SENSITIVITY_FILE, ArtifactCache
from segclip_deploy.tradeoff.measure_points import FRAMES, WARM_UP_ROUNDS
from segclip_deploy.tradeoff.mission import Mission, margins, sensor
from segclip_deploy.tradeoff.recommend import FlightLimits, Recommendation, recommend
from segclip_deploy.tradeoff.report import write_report
from segclip_deploy.tradeoff.results import ResultsRecord, SweepConditions, write_results
from segclip_deploy.tradeoff.roofline import find_boards, lower_bound
from segclip_deploy.tradeoff.sweep import Sweep, run_sweep
from segclip_deploy.tradeoff.sweep_grid import PrecisionChoice, SweepGrid, points, targets_here

__all__ = ["Ask", "benchmark_bundles", "prepare_sweep"]


@dataclass(frozen=True)
class Ask:
    """What ``benchmark`` was asked for; the fields are its options."""

    bundles: Sequence[Path]
    dataset: Path
    out: Path
    split: str = "val"
    mask_suffix: str = ""
    reading: Reading = field(default_factory=Reading)
    calib: Path | None = None
    targets: Sequence[str] = ()
    precisions: Sequence[PrecisionChoice] = ("fp32", "fp16", "int8", "planned")
    budgets: Sequence[float] = (0.3,)
    methods: Sequence[str] = ("percentile",)
    overlaps: Sequence[int] = ()
    threads: Sequence[int] = ()
    samples: int = 200
    limits: FlightLimits = field(default_factory=FlightLimits)
    boards: str | None = None
    altitude: float | None = None
    speed: float | None = None
    camera: str | None = None
    front_overlap: float = 0.7
    side_overlap: float = 0.7


def prepare_sweep(ask: Ask, report: Report) -> tuple[SweepGrid, ArtifactCache]:
    """Check everything that can be checked before hours are spent.

    Raises:
        BadInput: a bundle, dataset, split, class, board or sensor that is none.
    """
    names = [path.name for path in ask.bundles]
    if len(set(names)) < len(names):
        raise BadInput("two bundles have one name", where=", ".join(names), fix="rename one")
    bundles = [load_bundle(path) for path in ask.bundles]
    for bundle in bundles:
        check_fp32(bundle)
        unknown = set(ask.limits.class_iou) - set(bundle.vocabulary.names)
        if unknown:
            raise BadInput(
                f"no class {', '.join(sorted(unknown))} (it has {', '.join(bundle.vocabulary.names)})",
                where="--min-class-iou",
            )
        open_dataset(ask.dataset, bundle.vocabulary).names(ask.split)
    _mission(ask)
    if ask.boards:
        find_boards(ask.boards)
    if ask.calib is None and set(ask.precisions) & {"int8", "planned"}:
        raise BadInput(
            "INT8 needs real tiles",
            where="--precision",
            fix="--calib DIR, or --precision fp32 --precision fp16",
        )
    grid = SweepGrid(
        bundles=tuple(ask.bundles),
        targets=tuple(ask.targets) or tuple(targets_here()),
        precisions=tuple(ask.precisions),
        budgets=tuple(ask.budgets),
        methods=tuple(ask.methods),
        overlaps=tuple(ask.overlaps) or (None,),
        threads=tuple(ask.threads) or (0,),
    )
    return grid, ArtifactCache(
        ask.out / "work", ask.calib, ask.dataset, report, ask.mask_suffix, ask.reading
    )


def benchmark_bundles(
    ask: Ask, grid: SweepGrid, cache: ArtifactCache, report: Report
) -> tuple[Path, Sweep, Recommendation]:
    """Sweep, recommend and write the report.

    Raises:
        BadInput: the folder of the report holds something else.
        SegclipError: whatever else the sweep raises.
    """
    if ask.out.exists() and any(ask.out.iterdir()) and not cache.root.is_dir():
        raise BadInput(
            "exists and was not written by this command", where=ask.out, fix="choose another -o"
        )
    cache.root.mkdir(parents=True, exist_ok=True)
    sweep = run_sweep(grid, cache, split=ask.split, samples=ask.samples, report=report)
    advice = recommend(sweep.rows, ask.limits)
    bundles = [load_bundle(path) for path in ask.bundles]
    dataset = cache.open_dataset(bundles[0].vocabulary)
    bounds = []
    for path in ask.bundles if ask.boards else ():
        operators = find_operators(load_bundle(path).model_path)
        for name in find_boards(ask.boards or ""):
            bounds += [lower_bound(path.name, operators, name, p) for p in ("fp16", "int8")]
    plans = sorted((cache.root / "plans").glob(f"*/{SENSITIVITY_FILE}"))
    mission = _mission(ask)
    fastest_first = sorted(sweep.rows, key=lambda row: row.percentile(ask.limits.percentile))
    results = ResultsRecord(
        conditions=_conditions(ask, grid, dataset),
        recommended=advice.row.name if advice.row else None,
        why=advice.why,
        rows=sweep.rows,
        failures=sweep.failures,
        engines={name: str(path) for name, path in sweep.engines.items()},
        bounds=tuple(bounds),
        mission=margins(mission, fastest_first, ask.limits.percentile) if mission else (),
    )
    write_results(ask.out, results)
    page = write_report(
        ask.out,
        results,
        rank=ask.limits.percentile,
        dataset=dataset,
        mission=mission,
        sensitivities=plans,
    )
    return page, sweep, advice


def _mission(ask: Ask) -> Mission | None:
    if ask.altitude is None or ask.speed is None or ask.camera is None:
        return None
    return Mission(sensor(ask.camera), ask.altitude, ask.speed, ask.front_overlap, ask.side_overlap)


def _conditions(ask: Ask, grid: SweepGrid, dataset: Dataset) -> SweepConditions:
    names = dataset.names(ask.split)
    pixels = [dataset.read(name).frame.pixels for name in names[:FRAMES]]
    return SweepConditions(
        made=time.strftime("%Y-%m-%d %H:%M"),
        device=device_conditions(),
        load=load_average(),
        dataset=str(ask.dataset),
        split=ask.split,
        images=len(names),
        frames=len(pixels),
        frame_sizes=tuple(sorted({(one.shape[0], one.shape[1]) for one in pixels})),
        samples=ask.samples,
        warm_up=WARM_UP_ROUNDS,
        points=len(points(grid)),
    )
