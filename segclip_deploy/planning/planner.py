"""``plan``: sensitivity, search, and on a CPU the latency that the plan was made for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.plan import PrecisionPlan, save_plan
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.calibration.table import CalibrationTable
from segclip_deploy.calibration.tiles import cut_tiles
from segclip_deploy.errors import BadInput, GateFailed, command
from segclip_deploy.evaluation.dataset import Dataset, find_image
from segclip_deploy.export.onnx_model import load_model
from segclip_deploy.planning.plan_evaluator import Judge
from segclip_deploy.planning.search import Limits, able_blocks, search
from segclip_deploy.planning.sensitivity import BlockEffect, sensitivity
from segclip_deploy.progress import Report, silent
from segclip_deploy.quantization.block_precision import uniform_plan
from segclip_deploy.quantization.quantize import quantize
from segclip_deploy.runtime.profiling.layers import block_medians
from segclip_deploy.runtime.registry import timing_target
from segclip_deploy.runtime.targets.base import Target
from segclip_deploy.runtime.targets.tuning import WARM_UP, median_ms

__all__ = ["Planned", "make_plan", "worth"]

_GLANCED = 4  # tiles of the cheap look
_ROUNDS = 30
_WORTH = 1.1
"""A smaller gain does not pay for calibrating, checking and explaining INT8."""


@dataclass(frozen=True)
class Planned:
    """A plan and what it was chosen from."""

    plan: PrecisionPlan
    effects: tuple[BlockEffect, ...]


def make_plan(
    bundle: Bundle,
    table: CalibrationTable,
    dataset: Dataset,
    out: Path,
    *,
    scheme: Scheme,
    split: str,
    limits: Limits,
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
        dataset: whose split judges; it must hold none of the table's tiles.
        out: the plan to write.
        scheme: whom the plan is for.
        split: of the dataset.
        limits: of accuracy.
        max_latency_ms: median of one batch here, in the target that is preferred for the scheme and
            runs bundles as they are; with BF16 beside INT8 where it has that, as it flies.
        state: where what was measured lies; by default ``<out>.state.json``.
        report: called with (what, done, total).

    Raises:
        BadInput: a tile of the table is in the split, or a latency limit where none is measured.
        GateFailed: no mix keeps the limits.
    """
    target = timing_target(scheme)
    if max_latency_ms is not None and target is None:
        raise BadInput(
            f"no engine for scheme {scheme.value} can be timed before it is built",
            where="--max-latency-ms",
            fix="measure engines on the device",
        )
    tiles = _judging_tiles(bundle, table, dataset, split)
    full = uniform_plan(bundle, load_model(bundle.model_path).graph, scheme, "int8")
    state = state or out.with_name(out.name + ".state.json")
    judge = Judge(bundle, table, full, dataset, split, tiles[:_GLANCED], state)
    times = None
    if target is not None:
        times = judge.times(target.name, partial(_times, target, bundle, full, table, tiles[0]))
    effects = sensitivity(
        judge, able_blocks(full), times, lambda done, total: report("sensitivity", done, total)
    )
    plan = search(judge, full, effects, limits, lambda text: report(text, 0, 0))
    latency = None if target is None else _latency(target, bundle, plan, table, tiles[0])
    plan = replace(plan, evidence={**plan.evidence, "latency": latency})
    if max_latency_ms is not None and latency and latency["plan_ms"] > max_latency_ms:
        raise GateFailed(
            f"the fastest mix that is accurate enough takes {latency['plan_ms']:.1f} ms, "
            f"{max_latency_ms:g} were allowed"
        )
    save_plan(out, plan)
    return Planned(plan, effects)


def worth(plan: PrecisionPlan) -> str:
    """One line: is INT8 worth it?"""
    lost = 100 * plan.evidence["verdict"]["drop"]["value"]
    bounds = [100 * plan.evidence["verdict"]["drop"][k] for k in ("low", "high")]
    cost = f"{-lost:+.2f} points of mIoU [{-bounds[1]:+.2f}, {-bounds[0]:+.2f}]".replace("-", "−")
    if not able_blocks(plan):
        return "no block is INT8 within these limits: fly without it"
    latency = plan.evidence["latency"]
    if latency is None:
        return f"{cost}; how fast it is, only the device can tell"
    gain = latency["speed_up"]
    beside = "" if latency["beside"] == "f32" else f", {latency['beside'].upper()} beside it,"
    if gain < _WORTH:
        return f"INT8{beside} is {gain:.2f}× for {cost}: not worth it, fly FP32"
    return f"INT8{beside} is {gain:.2f}× for {cost}"


def _judging_tiles(
    bundle: Bundle, table: CalibrationTable, dataset: Dataset, split: str
) -> NDArray[np.uint8]:
    """The tiles of a split, none of which the table was measured on."""
    seen = {tile["sha256"] for tile in table.tiles}
    found = []
    for name in dataset.names(split):
        path = find_image(dataset.root / "images", name)
        for tile, pixels in cut_tiles(path, bundle.input, dataset.open_windows):
            if tile.sha256 in seen:
                raise BadInput(
                    f"the table was calibrated on this image, and split {split!r} is to judge it",
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
    step = max(1, len(found) // _GLANCED)  # from all over the split, not from its first image
    return np.stack(found[::step])


def _times(
    target: Target,
    bundle: Bundle,
    plan: PrecisionPlan,
    table: CalibrationTable,
    tile: NDArray[np.uint8],
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Of each block without INT8 and with it, beside what it would fly beside."""
    settings = target.float_settings(target.beside_int8())
    found = []
    with TemporaryDirectory() as folder:
        int8 = quantize(bundle, Path(folder) / "int8", plan=plan, table=table)
        for source in (bundle, int8):
            batches = source.input.batches
            with target.open(source.model_path, batches=batches, **settings) as backend:
                runs = target.time_layers(source.model_path, backend, tile, settings) or ()
            found.append(block_medians(runs, plan.blocks))
    high, low = found
    return high, low


def _latency(
    target: Target,
    bundle: Bundle,
    plan: PrecisionPlan,
    table: CalibrationTable,
    tile: NDArray[np.uint8],
) -> dict[str, Any]:
    """Of the FP32 bundle and of the plan's, each as it would fly."""
    beside = target.beside_int8()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        mixed = quantize(bundle, Path(folder) / "plan", plan=plan, table=table)
        backends = [
            stack.enter_context(
                target.open(
                    source.model_path,
                    batches=source.input.batches,
                    **target.float_settings(precision),
                )
            )
            for source, precision in ((bundle, "f32"), (mixed, beside))
        ]
        high, low = median_ms(backends, tile, rounds=_ROUNDS)
        engine = backends[1].name
    return {
        "engine": engine,
        "beside": beside,
        "fp32_ms": high,
        "plan_ms": low,
        "speed_up": high / low,
        "rounds": _ROUNDS,
        "warm_up": WARM_UP,
    }
