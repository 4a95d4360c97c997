"""Latency of bundles on this machine: alternating medians, and where the milliseconds go by block."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.export.naming import block_of
from segclip_deploy.runtime.backends.base import Backend

__all__ = ["Latency", "block_times", "compare"]

_WARM_UP = 5
_RUNS = 30


@dataclass(frozen=True)
class Latency:
    """Inference of one batch, without pre- and post-processing on the host.

    Attributes:
        median_ms, p95_ms: of the runs.
        runs, warm_up: how many were timed, and how many before them were not.
    """

    median_ms: float
    p95_ms: float
    runs: int
    warm_up: int

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def compare(backends: Sequence[Backend], tile: NDArray[np.uint8]) -> list[Latency]:
    """Time engines in turn, so that what else the machine does hits all alike.

    Args:
        backends: all of one input size.
        tile: a real one (H, W, 3); it fills the smallest batch.
    """
    images = [np.repeat(tile[None], b.inputs[0].batches.start, axis=0) for b in backends]
    times: list[list[float]] = [[] for _ in backends]
    for turn in range(_WARM_UP + _RUNS):
        for backend, image, taken in zip(backends, images, times, strict=True):
            started = time.perf_counter()
            backend.infer({"image": image})
            if turn >= _WARM_UP:
                taken.append(1e3 * (time.perf_counter() - started))
    return [
        Latency(float(np.median(t)), float(np.percentile(t, 95)), _RUNS, _WARM_UP) for t in times
    ]


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
