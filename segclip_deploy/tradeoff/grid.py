"""What a sweep varies, and the points that come of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.targets.device import has_gpu
from segclip_deploy.runtime.targets.tensorrt.library import MODULES

__all__ = ["Grid", "Point", "Wanted", "points", "scheme_of", "targets_here"]

Wanted = Literal["fp32", "fp16", "int8", "planned"]

_SHORT: Mapping[str, str] = {
    "openvino": "ov",
    "onnxruntime": "ort",
    "tensorrt": "trt",
    "tensorrt-rtx": "rtx",
}


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep; window size and batch are those of the bundles.

    Attributes:
        bundles: folders, FP32.
        targets: keys of ``runtime.engine.TARGETS``.
        precisions: FP32 is measured in any case, the others are compared with it.
        budgets: points of mIoU that a planned mix may lose.
        methods: how ranges are read off histograms.
        overlaps: pixels windows share; None: a quarter of the window.
        threads: of engines on the CPU; 0: what was fastest when the engine was built.
    """

    bundles: Sequence[Path]
    targets: Sequence[str]
    precisions: Sequence[Wanted]
    budgets: Sequence[float] = (0.3,)
    methods: Sequence[str] = ("percentile",)
    overlaps: Sequence[int | None] = (None,)
    threads: Sequence[int] = (0,)


@dataclass(frozen=True)
class Point:
    """One engine at one setting.

    Attributes:
        bundle: FP32.
        target: a key of ``runtime.engine.TARGETS``.
        precision: of the engine.
        budget: points of mIoU that a plan may lose; None where nothing is planned.
        method: of calibration; None where nothing is calibrated.
        overlap, threads: as in ``Grid``.
    """

    bundle: Path
    target: str
    precision: Wanted
    budget: float | None
    method: str | None
    overlap: int | None
    threads: int

    @property
    def name(self) -> str:
        """Unique within a sweep, for people."""
        precision = self.precision
        parts = [self.bundle.name, _SHORT[self.target]]
        parts.append(precision if self.budget is None else f"planned ≤ {self.budget:g}")
        if self.method not in (None, "percentile"):
            parts.append(str(self.method))
        if self.overlap is not None:
            parts.append(f"overlap {self.overlap}")
        if self.threads:
            parts.append(f"{self.threads} threads")
        return " · ".join(parts)


def points(grid: Grid) -> list[Point]:
    """Every combination that exists, FP32 first.

    FP16 is for TensorRT: OpenVINO and ONNX Runtime compute it in FP32 on a CPU. Threads are of
    engines on the CPU.
    """
    found = []
    precisions = ["fp32", *(p for p in grid.precisions if p != "fp32")]
    for bundle, target in product(grid.bundles, grid.targets):
        threads = (0,) if target in MODULES else grid.threads
        for precision in precisions:
            if precision == "fp16" and target not in MODULES:
                continue
            for method, budget in _calibrated(grid, precision):
                for overlap, count in product(grid.overlaps, threads):
                    wanted: Wanted = precision  # type: ignore[assignment]
                    found.append(Point(bundle, target, wanted, budget, method, overlap, count))
    return found


def _calibrated(grid: Grid, precision: str) -> Iterator[tuple[str | None, float | None]]:
    if precision in ("fp32", "fp16"):
        yield None, None
        return
    for method in grid.methods:
        for budget in grid.budgets if precision == "planned" else (None,):
            yield method, budget


def scheme_of(target: str) -> Scheme:
    """Whom Q/DQ is written for."""
    return Scheme.TENSORRT if target in MODULES else Scheme.CPU


def targets_here() -> list[str]:
    """What can be measured on this machine.

    Raises:
        BadInput: nothing can.
    """
    found = [name for name in ("openvino", "onnxruntime") if importlib.util.find_spec(name)]
    if has_gpu():
        found += [name for name, module in MODULES.items() if importlib.util.find_spec(module)]
    if not found:
        raise BadInput("no engine runs here", fix="segclip-deploy doctor")
    return found
