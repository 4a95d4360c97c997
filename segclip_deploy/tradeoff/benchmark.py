"""From what a user asks to a report: grid, sweep, recommendation, pages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.errors import BadInput, UsageError
from segclip_deploy.evaluation.dataset import Dataset, open_dataset
from segclip_deploy.export.costs import find_operators
from segclip_deploy.export.onnx_model import check_fp32
from segclip_deploy.progress import Report, saying
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.runtime.profiling.conditions import device_conditions, load_average
from segclip_deploy.runtime.profiling.mode_switch import choose_power_modes, plan_mode_switch
from segclip_deploy.runtime.registry import TARGETS
from segclip_deploy.runtime.targets.device import PowerMode, list_power_modes
from segclip_deploy.tradeoff.artifact_cache import SENSITIVITY_FILE, ArtifactCache
from segclip_deploy.tradeoff.heat_notes import heat_notes
from segclip_deploy.tradeoff.measure_points import FRAMES, WARM_UP_ROUNDS
from segclip_deploy.tradeoff.mission import Mission, margins, sensor
from segclip_deploy.tradeoff.recommend import FlightLimits, recommend
from segclip_deploy.tradeoff.report import write_report
from segclip_deploy.tradeoff.results import ResultsRecord, SweepConditions, write_results
from segclip_deploy.tradeoff.roofline import LowerBound, find_boards, lower_bound
from segclip_deploy.tradeoff.sweep import Steps
from segclip_deploy.tradeoff.sweep_grid import PrecisionChoice, SweepGrid, points, targets_here
from segclip_deploy.tradeoff.sweep_modes import (
    count_steps_in_modes,
    grids_of_modes,
    sweep_in_modes,
)

__all__ = ["Benchmark", "Prepared", "Request", "benchmark_bundles", "prepare_sweep"]


@dataclass(frozen=True)
class Request:
    """What ``benchmark`` was asked for; the fields are its options (docs/benchmark.md)."""

    bundles: Sequence[Path]
    dataset: Path
    out: Path
    split: str | None = None
    layout: str | None = None
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
    power_modes: Sequence[str] = ()
    power_command: str | None = None
    ambient: float | None = None


@dataclass(frozen=True)
class Prepared:
    """A request that was found sound.

    Attributes:
        request: what was asked for.
        grid: what varies.
        cache: makes the artefacts.
        split: the part of the dataset that reports accuracy.
        modes: power modes that the grid is measured in; none: the one that is found.
    """

    request: Request
    grid: SweepGrid
    cache: ArtifactCache
    split: str
    modes: tuple[PowerMode, ...]

    def steps(self) -> Steps:
        """How many engines are there, how many are to be made, and how many samples to be taken."""
        grids = grids_of_modes(self.grid, self.modes)
        return count_steps_in_modes(grids, self.cache, self.request.samples)


@dataclass(frozen=True)
class Benchmark:
    """A sweep's results and its page.

    Attributes:
        page: ``report.html``.
        results: what ``results.json`` says.
    """

    page: Path
    results: ResultsRecord

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the heat that rows were measured in, in words."""
        return heat_notes(self.results.rows)

    def to_json(self) -> dict[str, Any]:
        """The page, and the recommendation; all else is in ``results.json``."""
        recommended, why = self.results.recommended, self.results.why
        return {"report": str(self.page), "recommended": recommended, "why": why}


def prepare_sweep(request: Request, report: Report) -> Prepared:
    """Check everything that can be checked before hours are spent.

    Raises:
        BadInput: a bundle, dataset, split, class, target, board or sensor that is none.
    """
    names = [path.name for path in request.bundles]
    if len(set(names)) < len(names):
        raise BadInput("two bundles have one name", where=", ".join(names), fix="rename one")
    bundles = [load_bundle(path) for path in request.bundles]
    for bundle in bundles:
        check_fp32(bundle)
        bundle.vocabulary.check_names(request.limits.class_iou, where="--min-class-iou")
    data = open_dataset(request.dataset, bundles[0].vocabulary, layout=request.layout)
    split = data.choose_split(request.split, "val")
    plans = data.choose_split(None, "plan") if "planned" in request.precisions else "plan"
    if plans == split:
        saying(report)(
            f"{request.dataset}: no split plan, so {split} chooses planned mixes and scores them; "
            "their accuracy will look better than it is"
        )
    _mission(request)
    if request.boards:
        find_boards(request.boards)
    if request.power_command is not None and not request.power_modes:
        raise UsageError("--power-command switches nothing without --power-modes")
    modes: tuple[PowerMode, ...] = ()
    if request.power_modes:
        modes = choose_power_modes(request.power_modes, list_power_modes())
    if request.calib is None and set(request.precisions) & {"int8", "planned"}:
        raise BadInput(
            "INT8 needs real tiles",
            where="--precision",
            fix="--calib DIR, or --precision fp32 --precision fp16",
        )
    unknown = sorted(set(request.targets) - set(TARGETS))
    if unknown:
        raise UsageError(f"{unknown[0]!r} is not one of {', '.join(TARGETS)}", where="--target")
    grid = SweepGrid(
        bundles=tuple(request.bundles),
        targets=tuple(request.targets) or tuple(targets_here()),
        precisions=tuple(request.precisions),
        budgets=tuple(request.budgets),
        methods=tuple(request.methods),
        overlaps=tuple(request.overlaps) or (None,),
        threads=tuple(request.threads) or (0,),
    )
    cache = ArtifactCache(
        request.out / "work",
        request.calib,
        request.dataset,
        report,
        request.layout,
        request.mask_suffix,
        request.reading,
        plans,
    )
    return Prepared(request, grid, cache, split, modes)


def benchmark_bundles(prepared: Prepared, report: Report) -> Benchmark:
    """Sweep, recommend and write the report.

    Raises:
        BadInput: the folder of the report holds something else.
        SegclipError: whatever else the sweep raises.
    """
    request, cache, modes = prepared.request, prepared.cache, prepared.modes
    switch = plan_mode_switch(request.power_command) if modes else None
    if request.out.exists() and any(request.out.iterdir()) and not cache.root.is_dir():
        raise BadInput(
            "exists and was not written by this command", where=request.out, fix="choose another -o"
        )
    cache.root.mkdir(parents=True, exist_ok=True)
    sweep = sweep_in_modes(
        prepared.grid,
        cache,
        switch,
        modes,
        split=prepared.split,
        samples=request.samples,
        report=report,
    )
    advice = recommend(sweep.rows, request.limits)
    dataset = cache.open_dataset(load_bundle(request.bundles[0]).vocabulary)
    plans = sorted((cache.root / "plans").glob(f"*/{SENSITIVITY_FILE}"))
    mission, rank = _mission(request), request.limits.percentile
    fastest_first = sorted(sweep.rows, key=lambda row: row.percentile(rank))
    results = ResultsRecord(
        conditions=_conditions(prepared, dataset),
        recommended=advice.row.name if advice.row else None,
        why=advice.why,
        rows=sweep.rows,
        failures=sweep.failures,
        engines={name: str(path) for name, path in sweep.engines.items()},
        bounds=tuple(_bounds(request)),
        mission=margins(mission, fastest_first, rank) if mission else (),
    )
    write_results(request.out, results)
    page = write_report(
        request.out, results, rank=rank, dataset=dataset, mission=mission, sensitivities=plans
    )
    return Benchmark(page, results)


def _bounds(request: Request) -> Iterator[LowerBound]:
    for path in request.bundles if request.boards else ():
        operators = find_operators(load_bundle(path).model_path)
        for name in find_boards(request.boards or ""):
            for precision in ("fp16", "int8"):
                yield lower_bound(path.name, operators, name, precision)


def _mission(request: Request) -> Mission | None:
    altitude, speed, camera = request.altitude, request.speed, request.camera
    if altitude is None or speed is None or camera is None:
        if (altitude, speed, camera) != (None, None, None):
            raise UsageError("a mission needs --altitude, --speed and --sensor")
        return None
    overlaps = request.front_overlap, request.side_overlap
    return Mission(sensor(camera), altitude, speed, *overlaps)


def _conditions(prepared: Prepared, dataset: Dataset) -> SweepConditions:
    names = dataset.names(prepared.split)
    pixels = [dataset.read(name).frame.pixels for name in names[:FRAMES]]
    planned = "planned" in prepared.request.precisions
    return SweepConditions(
        made=time.strftime("%Y-%m-%d %H:%M"),
        device=device_conditions(),
        load=load_average(),
        dataset=str(prepared.request.dataset),
        split=prepared.split,
        plan_split=prepared.cache.plan_split if planned else None,
        images=len(names),
        frames=len(pixels),
        frame_sizes=tuple(sorted({(one.shape[0], one.shape[1]) for one in pixels})),
        samples=prepared.request.samples,
        warm_up=WARM_UP_ROUNDS,
        points=len(points(prepared.grid)) * max(1, len(prepared.modes)),
        power_modes=tuple(mode.name for mode in prepared.modes),
        ambient=prepared.request.ambient,
    )
