"""What a sweep varies, and the points that come of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.registry import TARGETS
from segclip_deploy.tradeoff.made import MadeArtefact, PrecisionChoice

__all__ = ["Point", "SweepGrid", "points", "targets_here"]


@dataclass(frozen=True)
class SweepGrid:
    """The axes of a sweep; window size and batch are those of the bundles.

    Attributes:
        bundles: folders, FP32.
        targets: names of ``TARGETS``.
        precisions: FP32 is measured in any case, the others are compared with it.
        budgets: points of mIoU that a planned mix may lose.
        methods: how ranges are read off histograms.
        overlaps: pixels windows share; None: what ``export --frame`` chose, or a quarter of the window.
        threads: of engines on the CPU; 0: what was fastest when the engine was built.
        made: quantized bundles and engines that are there already.
        power_mode: of the Jetson that all is built and measured in; None elsewhere.
    """

    bundles: Sequence[Path]
    targets: Sequence[str]
    precisions: Sequence[PrecisionChoice]
    budgets: Sequence[float] = (0.3,)
    methods: Sequence[str] = ("percentile",)
    overlaps: Sequence[int | None] = (None,)
    threads: Sequence[int] = (0,)
    made: Sequence[MadeArtefact] = ()
    power_mode: str | None = None


@dataclass(frozen=True)
class Point:
    """One engine at one setting.

    Attributes:
        bundle: FP32; or the FP32 engine that is there in place of one.
        target: a name of ``TARGETS``.
        precision: of the engine.
        budget: points of mIoU that a plan may lose; None where nothing is planned.
        method: of calibration; None where nothing is calibrated.
        overlap, threads, power_mode: as in ``SweepGrid``.
        made: the quantized bundle or the engine, where it is there already; None: it is made of ``bundle``.
    """

    bundle: Path
    target: str
    precision: PrecisionChoice
    budget: float | None
    method: str | None
    overlap: int | None
    threads: int
    made: Path | None = None
    power_mode: str | None = None

    @property
    def name(self) -> str:
        """Unique within a sweep, for people."""
        parts = [(self.made or self.bundle).name, TARGETS[self.target].short, self.precision_told]
        if self.method not in (None, "percentile"):
            parts.append(str(self.method))
        if self.overlap is not None:
            parts.append(f"overlap {self.overlap}")
        if self.threads:
            parts.append(f"{self.threads} threads")
        if self.power_mode:
            parts.append(self.power_mode)
        return " · ".join(parts)

    @property
    def precision_told(self) -> str:
        """The precision, of a plan with its budget."""
        return self.precision if self.budget is None else f"planned ≤ {self.budget:g}"


def points(grid: SweepGrid) -> list[Point]:
    """Every combination that exists, FP32 first.

    A precision that a target does not have is left out, and so are threads of engines that have none.
    """
    found = []
    precisions = ["fp32", *(p for p in grid.precisions if p != "fp32")]
    for bundle, target in product(grid.bundles, grid.targets):
        known = TARGETS[target]
        threads = grid.threads if known.takes_threads else (0,)
        for precision in precisions:
            if precision != "planned" and precision not in known.precisions:
                continue
            for method, budget in _calibrated(grid, precision):
                for overlap, count in product(grid.overlaps, threads):
                    wanted: PrecisionChoice = precision
                    found.append(Point(bundle, target, wanted, budget, method, overlap, count))
    for made in grid.made:
        for target in made.targets(grid.targets):
            threads = grid.threads if TARGETS[target].takes_threads else (0,)
            found += [
                Point(made.parent, target, made.precision, None, None, overlap, count, made.path)
                for overlap, count in product(grid.overlaps, threads)
            ]
    found = [replace(point, power_mode=grid.power_mode) for point in found]
    return sorted(found, key=lambda point: point.precision != "fp32")


def _calibrated(grid: SweepGrid, precision: str) -> Iterator[tuple[str | None, float | None]]:
    if precision in ("fp32", "fp16"):
        yield None, None
        return
    for method in grid.methods:
        for budget in grid.budgets if precision == "planned" else (None,):
            yield method, budget


def targets_here() -> list[str]:
    """What can be measured on this machine.

    Raises:
        BadInput: nothing can.
    """
    found = [name for name, target in TARGETS.items() if target.runs_here()]
    if not found:
        raise BadInput("no engine runs here", fix="segclip-deploy doctor")
    return found
