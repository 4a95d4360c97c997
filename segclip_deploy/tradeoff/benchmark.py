"""From a request that is sound to a report, or to a folder for a board."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.errors import GateFailed, MissingDependency
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.export.costs import find_operators
from segclip_deploy.progress import Report, saying
from segclip_deploy.runtime.profiling.conditions import device_conditions, load_average
from segclip_deploy.runtime.profiling.mode_switch import plan_mode_switch
from segclip_deploy.tradeoff.artifact_cache import SENSITIVITY_FILE
from segclip_deploy.tradeoff.board_folder import (
    BoardFolder,
    check_disk,
    variant_name,
    write_board_folder,
)
from segclip_deploy.tradeoff.comparison import EngineComparison, compare_with
from segclip_deploy.tradeoff.heat_notes import heat_notes
from segclip_deploy.tradeoff.measure_points import WARM_UP_ROUNDS
from segclip_deploy.tradeoff.mission import margins
from segclip_deploy.tradeoff.recommend import Recommendation, recommend
from segclip_deploy.tradeoff.report import write_report
from segclip_deploy.tradeoff.results import ResultsRecord, SweepConditions, write_results
from segclip_deploy.tradeoff.roofline import LowerBound, find_boards, lower_bound
from segclip_deploy.tradeoff.row import FailedPoint
from segclip_deploy.tradeoff.sweep_grid import points
from segclip_deploy.tradeoff.sweep_modes import sweep_in_modes
from segclip_deploy.tradeoff.sweep_request import Prepared

__all__ = ["Benchmark", "benchmark_bundles", "write_prepared"]


@dataclass(frozen=True)
class Benchmark:
    """A sweep's results and its page.

    Attributes:
        page: ``report.html``; None where what draws it is not installed.
        results: what ``results.json`` says.
    """

    page: Path | None
    results: ResultsRecord

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the heat that rows were measured in, in words."""
        return heat_notes(self.results.rows)

    def to_json(self) -> dict[str, Any]:
        """The page, and the recommendation; all else is in ``results.json``."""
        recommended, why = self.results.recommended, self.results.why
        page = None if self.page is None else str(self.page)
        return {"report": page, "recommended": recommended, "why": why}


def benchmark_bundles(prepared: Prepared, report: Report) -> Benchmark:
    """Sweep, recommend and write the report.

    Raises:
        SegclipError: whatever the sweep raises.
    """
    request, cache, modes = prepared.request, prepared.cache, prepared.modes
    switch = plan_mode_switch(request.power_command) if modes else None
    cache.root.mkdir(parents=True, exist_ok=True)
    check_disk(cache.root, _bytes_to_make(prepared))
    sweep = sweep_in_modes(
        prepared.grid,
        cache,
        switch,
        modes,
        split=prepared.split,
        samples=request.samples,
        frames=prepared.frames,
        report=report,
    )
    advice = recommend(sweep.rows, request.limits)
    dataset = cache.open_dataset(prepared.given.vocabulary)
    plans = sorted((cache.root / "plans").glob(f"*/{SENSITIVITY_FILE}"))
    mission, rank = request.mission(), request.limits.percentile
    centre = advice.row or advice.nearest
    comparisons = compare_with(centre, sweep.rows, sweep.accuracies, rank) if centre else ()
    fastest_first = sorted(sweep.rows, key=lambda row: row.percentile(rank))
    results = ResultsRecord(
        conditions=_conditions(prepared, dataset),
        recommended=advice.row.name if advice.row else None,
        why=_why(advice, comparisons),
        rows=sweep.rows,
        failures=(*prepared.failures, *sweep.failures),
        engines={name: str(path) for name, path in sweep.engines.items()},
        bounds=tuple(_bounds(prepared)),
        flight=mission,
        mission=margins(mission, fastest_first, rank) if mission else (),
        comparisons=comparisons,
    )
    write_results(request.out, results)
    try:
        page = write_report(
            request.out, results, rank=rank, dataset=dataset, mission=mission, sensitivities=plans
        )
    except MissingDependency as error:
        saying(report)(f"no page, only {request.out / 'results.json'} and .csv: {error}")
        return Benchmark(None, results)
    return Benchmark(page, results)


def _why(advice: Recommendation, comparisons: Sequence[EngineComparison]) -> str:
    """The recommendation, and how it stands to the next engine that might fly."""
    beside = (one.told for one in comparisons if advice.next and one.other == advice.next.name)
    return "; ".join([advice.why, *(f"beside the next fastest: {told}" for told in beside)])


def write_prepared(prepared: Prepared, out: Path, report: Report) -> BoardFolder:
    """Make every variant of the grid, and write them and what they are evaluated on into a folder.

    Variants are made for schemes, not for targets: the board builds the engines.

    Raises:
        BadInput: engines among the artefacts, or ``out`` holds something else.
        SegclipError: whatever else calibrating, planning and quantizing raise; but a variant that misses a
            gate is told in the manifest.
    """
    cache = prepared.cache
    variants: dict[str, Path] = {}
    failures: list[FailedPoint] = []
    wanted = {variant_name(point): point for point in points(prepared.grid)}
    cache.make_tables(wanted.values())
    for index, (name, point) in enumerate(wanted.items()):
        report(f"making {name}", index, len(wanted))
        try:
            variants[name] = cache.bundle(point).path
        except GateFailed as error:
            failures.append(FailedPoint(name=name, why=str(error)))
    return write_board_folder(
        out,
        variants,
        cache.open_dataset(prepared.given.vocabulary),
        prepared.split,
        plan_split=prepared.plan_split,
        failures=failures,
        report=report,
    )


def _bytes_to_make(prepared: Prepared) -> int:
    """Of engines that are not there: about their bundles' models, and as much again of a quantized bundle."""
    cache = prepared.cache
    wanted = [point for grid in prepared.grids for point in points(grid)]
    paths = {cache.engine_path(point): point for point in wanted}
    models = [
        load_bundle(point.made or point.bundle).model_path.stat().st_size
        for path, point in paths.items()
        if not path.is_file()
    ]
    return 2 * sum(models)


def _bounds(prepared: Prepared) -> Iterator[LowerBound]:
    boards = prepared.request.boards
    for path in prepared.given.bundles if boards else ():
        bundle = load_bundle(path)
        operators = find_operators(bundle.for_scheme(Scheme.TENSORRT).model_path)
        for name in find_boards(boards or ""):
            for precision in ("fp16", "int8"):
                yield lower_bound(path.name, bundle.sha256, operators, name, precision)


def _conditions(prepared: Prepared, dataset: Dataset) -> SweepConditions:
    names = dataset.names(prepared.split)
    pixels = [frame.pixels for frame in prepared.frames]
    return SweepConditions(
        made=time.strftime("%Y-%m-%d %H:%M"),
        device=device_conditions(),
        load=load_average(),
        dataset=str(dataset.root),
        split=prepared.split,
        plan_split=prepared.plan_split,
        images=len(names),
        frame_folder=None if prepared.request.frames is None else str(prepared.request.frames),
        frames=len(pixels),
        frame_sizes=tuple(sorted({(one.shape[0], one.shape[1]) for one in pixels})),
        samples=prepared.request.samples,
        warm_up=WARM_UP_ROUNDS,
        points=len(points(prepared.grid)) * max(1, len(prepared.modes)),
        power_modes=tuple(mode.name for mode in prepared.modes),
        ambient=prepared.request.ambient,
    )
