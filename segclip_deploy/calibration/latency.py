"""Where the milliseconds of a model go, block by block, on this machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.export.naming import block_of

__all__ = ["block_times"]

_WARM_UP = 5
_RUNS = 30


def block_times(
    model: Path, tile: NDArray[np.uint8], blocks: Collection[str]
) -> Mapping[str, float]:
    """Milliseconds in each block of a model on the CPU, by OpenVINO's own counters; medians.

    What OpenVINO adds itself (reorders, fused constants) is counted as the block ``engine``.

    Raises:
        MissingDependency: OpenVINO is not installed.
    """
    ov = require("openvino", why="a profile by block")
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "PERF_COUNT": "YES",
    }
    compiled = ov.Core().compile_model(str(model), "CPU", config)
    request = compiled.create_infer_request()
    shape = compiled.inputs[0].partial_shape
    batch = shape[0].get_length() if shape[0].is_static else 1
    runs = []
    for turn in range(_WARM_UP + _RUNS):
        request.infer({"image": np.repeat(tile[None], batch, axis=0)})
        if turn >= _WARM_UP:
            runs.append(_by_block(request.profiling_info, blocks))
    return {
        block: float(np.median([run.get(block, 0.0) for run in runs]))
        for block in dict.fromkeys(name for run in runs for name in run)
    }


def _by_block(layers: Any, blocks: Collection[str]) -> dict[str, float]:
    total: dict[str, float] = {}
    for layer in layers:
        name = block_of(layer.node_name)
        block = name if name in blocks else "engine"
        total[block] = total.get(block, 0.0) + 1e3 * layer.real_time.total_seconds()
    return total
