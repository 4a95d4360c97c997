"""How fast blocks and whole plans are on this machine, where an engine runs bundles as they are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.plan import PlanLatency, PrecisionPlan
from segclip_deploy.artifacts.records import Record
from segclip_deploy.calibration.table import CalibrationTable
from segclip_deploy.quantization.quantize import quantize
from segclip_deploy.runtime.profiling.layers import block_medians
from segclip_deploy.runtime.targets.base import Target
from segclip_deploy.runtime.targets.tuning import WARM_UP, median_ms

__all__ = ["BlockTimes", "time_blocks", "time_plan"]

_ROUNDS = 30


class BlockTimes(Record, frozen=True):
    """Median milliseconds by block, without INT8 and with it."""

    high: Mapping[str, float]
    int8: Mapping[str, float]


def time_blocks(
    target: Target,
    bundle: Bundle,
    plan: PrecisionPlan,
    table: CalibrationTable,
    tile: NDArray[np.uint8],
) -> BlockTimes:
    """Time each block beside what it would fly beside.

    Args:
        target: that takes bundles as they are.
        bundle: in FP32.
        plan: everything INT8 that can be.
        table: measured in the bundle.
        tile: (H, W, 3), in every slot of the batch.
    """
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
    return BlockTimes(high=high, int8=low)


def time_plan(
    target: Target,
    bundle: Bundle,
    plan: PrecisionPlan,
    table: CalibrationTable,
    tile: NDArray[np.uint8],
) -> PlanLatency:
    """Time the FP32 bundle and the plan's in turns, each as it would fly; arguments as of ``time_blocks``."""
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
        return PlanLatency(
            engine=backends[1].name,
            beside=beside,
            fp32_ms=high,
            plan_ms=low,
            rounds=_ROUNDS,
            warm_up=WARM_UP,
        )
