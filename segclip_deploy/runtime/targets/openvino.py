"""OpenVINO behind the Backend contract."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.errors import BadArtifact
from segclip_deploy.runtime.inference.backend import TensorSpec, checked
from segclip_deploy.runtime.targets.compile_cache import CompileCache
from segclip_deploy.runtime.targets.device import find_cpu

__all__ = ["OpenVinoBackend", "precisions", "settings"]


class OpenVinoBackend:
    """Compiles an ONNX file for the CPU, for latency, with outputs bound for each change of batch.

    Args:
        model: the ONNX file; all shapes static, but for the batch.
        threads: 0 lets OpenVINO choose.
        precision: of what the file leaves in floating point: ``"f32"`` or ``"bf16"``.
        batches: what to take where the file leaves the batch open.
        sha256: of the file, checked by whoever gives it; with it, what OpenVINO compiles is kept
            in the compile cache and found there the next time. None compiles every time.

    Raises:
        BadArtifact: OpenVINO refuses the file, or the processor has no such precision.
        MissingDependency: OpenVINO is not installed.
    """

    def __init__(
        self,
        model: Path,
        *,
        threads: int = 0,
        precision: str = "f32",
        batches: range = range(1, 2),
        sha256: str | None = None,
    ) -> None:
        ov = require("openvino", why="an OpenVINO engine")
        if precision != "f32" and precision not in precisions():
            raise BadArtifact(f"it is run in {precision}, which this CPU has not", where=model)
        try:
            compiled = _compile(ov, model, settings(threads, precision), batches, sha256)
        except RuntimeError as error:
            raise BadArtifact(f"OpenVINO refuses it ({error})", where=model) from error
        self.name = f"OpenVINO {ov.__version__.split('-')[0]} CPU {precision}"
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_spec(port) for port in compiled.outputs)
        self._tensor = ov.Tensor
        self._request = compiled.create_infer_request()
        self._arrays = {o.name: np.empty(o.shape, dtype=o.dtype) for o in self.outputs}
        self._results: dict[str, NDArray[Any]] = {}
        self._bound = 0  # the batch that the outputs are bound for

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once; the returned arrays are overwritten by the next call."""
        taken = {spec.name: checked(arrays, spec) for spec in self.inputs}
        batch = len(taken[self.inputs[0].name])
        if batch != self._bound:
            self._bound = batch
            self._results = {name: array[:batch] for name, array in self._arrays.items()}
            taken |= self._results
        for name, array in taken.items():
            self._request.set_tensor(name, self._tensor(array, shared_memory=True))
        self._request.infer()
        return self._results

    def close(self) -> None:
        """Release the compiled model."""
        del self._request


def settings(threads: int, precision: str) -> dict[str, str]:
    """How OpenVINO compiles for latency; arguments as of ``OpenVinoBackend``."""
    chosen = {
        "PERFORMANCE_HINT": "LATENCY",
        # By default OpenVINO picks the precision by the processor, and the labels with it.
        "INFERENCE_PRECISION_HINT": precision,
    }
    return chosen | ({"INFERENCE_NUM_THREADS": str(threads)} if threads else {})


def precisions() -> tuple[str, ...]:
    """Floating-point precisions OpenVINO offers on this CPU: f32, and bf16 where it has it.

    Raises:
        MissingDependency: OpenVINO is not installed.
    """
    ov = require("openvino", why="an OpenVINO engine")
    offered = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("f32", "bf16") if "BF16" in offered else ("f32",)


def _compile(
    ov: Any, model: Path, config: dict[str, str], batches: range, sha256: str | None
) -> Any:
    """The compiled model, from the compile cache where it is there."""
    core = ov.Core()
    cache = sha256 and CompileCache.of(
        "openvino",
        {
            "model": sha256,
            "openvino": ov.__version__,
            "config": config,
            "batches": [batches.start, batches.stop],
            "cpu": find_cpu().to_json(),
        },
    )
    if cache and (stored := cache.read()):
        with suppress(RuntimeError):  # OpenVINO refuses it: compile
            return core.import_model(stored, "CPU", config)
    graph = core.read_model(str(model))
    if graph.is_dynamic():
        limits = ov.Dimension(batches.start, batches.stop - 1)
        graph.reshape({port: [limits, *list(port.partial_shape)[1:]] for port in graph.inputs})
    compiled = core.compile_model(graph, "CPU", config)
    if cache:
        cache.write(compiled.export_model().getvalue())
    return compiled


def _spec(port: Any) -> TensorSpec:
    batch, *sides = port.partial_shape
    if any(side.is_dynamic for side in sides):
        raise BadArtifact(
            f"tensor {port.any_name} is {port.partial_shape}; only the batch may be open"
        )
    shape = (batch.get_max_length(), *(side.get_length() for side in sides))
    least = batch.get_min_length() if batch.is_dynamic else None
    return TensorSpec(port.any_name, shape, np.dtype(port.element_type.to_dtype()), least)
