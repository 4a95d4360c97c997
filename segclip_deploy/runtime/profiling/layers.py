"""Where the milliseconds of an inference go, layer by layer, by the engine's own counters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.onnx_file import block_of, makers
from segclip_deploy.artifacts.records import Record
from segclip_deploy.runtime.targets.openvino import settings

__all__ = [
    "LayerTime",
    "Runs",
    "block_medians",
    "layer_medians",
    "onnxruntime_layers",
    "openvino_layers",
    "sum_blocks",
]

_WARM_UP = 5
_RUNS = 30

Runs = Sequence[Mapping[str, float]]
"""For every run, milliseconds by layer."""


class LayerTime(Record, frozen=True):
    """A layer of an engine.

    Attributes:
        name: the engine's; of several nodes that were fused, that of one of them.
        block: of the model; ``engine`` for what the engine adds itself.
        ms: the median.
    """

    name: str
    block: str
    ms: float


def openvino_layers(
    model: Path, tile: NDArray[np.uint8], *, threads: int = 0, precision: str = "f32"
) -> Runs:
    """Time the layers of an ONNX file in OpenVINO; counting costs a few percent itself.

    Raises:
        MissingDependency: OpenVINO is not installed.
    """
    ov = require("openvino", why="a profile by layer")
    config = settings(threads, precision) | {"PERF_COUNT": "YES"}
    compiled = ov.Core().compile_model(str(model), "CPU", config)
    request = compiled.create_infer_request()
    shape = compiled.inputs[0].partial_shape
    batch = shape[0].get_length() if shape[0].is_static else 1
    runs = []
    for turn in range(_WARM_UP + _RUNS):
        request.infer({"image": np.repeat(tile[None], batch, axis=0)})
        if turn >= _WARM_UP:
            runs.append(
                _summed(
                    (info.node_name, 1e3 * info.real_time.total_seconds())
                    for info in request.profiling_info
                )
            )
    return runs


def onnxruntime_layers(
    model: Path, tile: NDArray[np.uint8], batch: int, *, threads: int = 0
) -> Runs:
    """Time the nodes of an ONNX file in ONNX Runtime on the CPU, by its profiler.

    What it fuses for its blocked layout it names after the tensor that is made; here it gets the
    name of the node that makes that tensor in the file.
    """
    ort = require("onnxruntime", why="running an ONNX model")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.enable_profiling = True
    with TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        image = np.repeat(tile[None], batch, axis=0)
        for _ in range(_WARM_UP + _RUNS):
            session.run(None, {session.get_inputs()[0].name: image})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event["name"].endswith("_kernel_time")]
    names = {f"{tensor}_nchwc": node for tensor, node in makers(model).items()}
    size = len(kernels) // (_WARM_UP + _RUNS)  # every run executes the same kernels
    return [
        _summed(
            (
                names.get(name := event["name"].removesuffix("_kernel_time"), name),
                event["dur"] / 1e3,
            )
            for event in kernels[start : start + size]
        )
        for start in range(_WARM_UP * size, len(kernels), size)
    ]


def layer_medians(
    runs: Runs, blocks: Iterable[str], told: Mapping[str, str] | None = None
) -> list[LayerTime]:
    """Median of each layer, the slowest first.

    Args:
        runs: as measured.
        blocks: of the model; a layer of none of them is of the block ``engine``.
        told: the blocks of layers whose names do not tell them.
    """
    known = set(blocks)

    def block(name: str) -> str:
        found = (told or {}).get(name) or block_of(name)
        return found if found in known else "engine"

    times = [
        LayerTime(
            name=name,
            block=block(name),
            ms=round(median(run.get(name, 0.0) for run in runs), 5),
        )
        for name in dict.fromkeys(name for run in runs for name in run)
    ]
    return sorted(times, key=lambda layer: -layer.ms)


def block_medians(runs: Runs, blocks: Iterable[str]) -> dict[str, float]:
    """Median of each block's sum; what is of none of ``blocks`` is the block ``engine``."""
    known = set(blocks)

    def block(name: str) -> str:
        return block_of(name) if block_of(name) in known else "engine"

    sums = [_summed((block(name), ms) for name, ms in run.items()) for run in runs]
    return {
        name: float(median(run.get(name, 0.0) for run in sums))
        for name in dict.fromkeys(name for run in sums for name in run)
    }


def sum_blocks(layers: Iterable[LayerTime]) -> dict[str, float]:
    """Milliseconds by block, the slowest first."""
    total = _summed((layer.block, layer.ms) for layer in layers)
    return dict(sorted(total.items(), key=lambda pair: -pair[1]))


def _summed(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for name, ms in pairs:
        total[name] = total.get(name, 0.0) + ms
    return total
