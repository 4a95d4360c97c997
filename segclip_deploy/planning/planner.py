"""``plan``: sensitivity, search, and on a CPU the latency that the plan was made for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts import records
from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.plan import PLAN, AccuracyLimits, PrecisionPlan, save_plan
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.calibration.table import CalibrationTable
from segclip_deploy.calibration.tiles import cut_tiles
from segclip_deploy.errors import BadInput, GateFailed, command
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.export.onnx_model import load_fp32
from segclip_deploy.planning.latency import BlockTimes, time_blocks, time_plan
from segclip_deploy.planning.measurements import Measurements
from segclip_deploy.planning.plan_evaluator import PlanEvaluator
from segclip_deploy.planning.search import search
from segclip_deploy.planning.sensitivity import BlockEffect, sensitivity
from segclip_deploy.progress import Report, saying, silent, stage
from segclip_deploy.quantization.placement import place, uniform_plan
from segclip_deploy.runtime.registry import timing_target
from segclip_deploy.runtime.targets.device import find_cpu

__all__ = ["Planned", "plan_precision", "worth"]

_PROXY_TILES = 4
_WORTH = 1.1
"""A smaller gain does not pay for calibrating, checking and explaining INT8."""


@dataclass(frozen=True)
class Planned:
    """A plan and what it was chosen from."""

    plan: PrecisionPlan
    effects: tuple[BlockEffect, ...]

    @property
    def worth(self) -> str:
        """One line: is INT8 worth it?"""
        return worth(self.plan)

    def to_json(self) -> dict[str, Any]:
        """The plan's file as JSON, and the effects."""
        return {**PLAN.dump(self.plan), "effects": [effect.to_json() for effect in self.effects]}


def plan_precision(
    bundle: Bundle,
    table: CalibrationTable,
    dataset: Dataset,
    out: Path,
    *,
    scheme: Scheme,
    split: str,
    limits: AccuracyLimits,
    max_latency_ms: float | None = None,
    state: Path | None = None,
    report: Report = silent,
) -> Planned:
    """Find the fastest mix within limits and write it.

    What was measured is kept: the same call goes on after a kill, and another with other limits
    starts from there.

    Args:
        bundle: in FP32.
        table: measured in it.
        dataset: whose split is evaluated; it must hold none of the table's tiles.
        out: the plan to write.
        scheme: whom the plan is for.
        split: of the dataset.
        limits: of accuracy.
        max_latency_ms: median of one batch here, in the target that is preferred for the scheme and
            runs bundles as they are; with BF16 beside INT8 where it has that, as it flies.
        state: where what was measured lies; by default ``<out>.state.json``.
        report: called with (what, done, total).

    Raises:
        BadInput: a tile of the table is in the split, a latency limit where none is measured, or
            a limit of a class that is none.
        GateFailed: no mix keeps the limits.
    """
    bundle.vocabulary.check_names(limits.min_class_iou, where="--min-class-iou")
    target = timing_target(scheme)
    if max_latency_ms is not None and target is None:
        raise BadInput(
            f"no engine for scheme {scheme.value} can be timed before it is built",
            where="--max-latency-ms",
            fix="measure engines on the device",
        )
    bundle = bundle.for_scheme(scheme)
    tiles = _evaluation_tiles(bundle, table, dataset, split)
    graph = load_fp32(bundle).graph
    full = uniform_plan(bundle, graph, scheme, "int8")
    # What was measured under other rules of placing Q/DQ says nothing of these.
    rules = hashlib.sha256(repr(place(graph, scheme, lambda _: True)).encode()).hexdigest()
    state = state or out.with_name(out.name + ".state.json")
    known = Measurements(state, table.digest, scheme.value, rules)
    evaluator = PlanEvaluator(bundle, table, full, dataset, split, tiles[:_PROXY_TILES], known)
    times = None
    if target is not None:
        # A plan must not change with the noise of timing it again.
        measure = partial(time_blocks, target, bundle, full, table, tiles[0])
        times = known.get(BlockTimes, measure, target.name, find_cpu().to_json())
    effects = sensitivity(evaluator, full.int8_blocks, times, stage(report, "sensitivity"))
    plan = search(evaluator, full, effects, limits, saying(report))
    assert plan.evidence is not None
    if target is not None:
        latency = time_plan(target, bundle, plan, table, tiles[0])
        plan = records.replace(plan, evidence=records.replace(plan.evidence, latency=latency))
        if max_latency_ms is not None and latency.plan_ms > max_latency_ms:
            raise GateFailed(
                f"the fastest mix that is accurate enough takes {latency.plan_ms:.1f} ms, "
                f"{max_latency_ms:g} were allowed"
            )
    save_plan(out, plan)
    return Planned(plan, effects)


def worth(plan: PrecisionPlan) -> str:
    """One line: is INT8 worth it?"""
    if not plan.int8_blocks:
        return "no block is INT8 within these limits: fly without it"
    if plan.evidence is None:
        return "nobody has measured this plan"
    drop, latency = plan.evidence.evaluation.drop, plan.evidence.latency
    cost = f"ΔmIoU {drop.delta} {drop.delta_interval} points"
    if latency is None:
        return f"{cost}; how fast it is, only the device can tell"
    beside = "" if latency.beside == "f32" else f", {latency.beside.upper()} beside it,"
    if latency.speed_up < _WORTH:
        return f"INT8{beside} is {latency.speed_up:.2f}× for {cost}: not worth it, fly FP32"
    return f"INT8{beside} is {latency.speed_up:.2f}× for {cost}"


def _evaluation_tiles(
    bundle: Bundle, table: CalibrationTable, dataset: Dataset, split: str
) -> NDArray[np.uint8]:
    """The tiles of a split, none of which the table was measured on."""
    seen = {tile.sha256 for tile in table.tiles}
    found = []
    for name in dataset.names(split):
        path = dataset.image(name)
        for tile, pixels in cut_tiles(path, bundle.input, dataset.open_windows):
            if tile.sha256 in seen:
                raise BadInput(
                    f"the table was calibrated on this image, and split {split!r} is to evaluate it",
                    where=path,
                    fix=command(
                        "segclip-deploy",
                        "calibrate",
                        bundle.path,
                        "--tiles",
                        "DIR",
                        "--eval",
                        dataset.root,
                        "-o",
                        "TABLE",
                    ),
                )
            found.append(pixels)
    step = max(1, len(found) // _PROXY_TILES)  # from all over the split, not from its first image
    return np.stack(found[::step])
