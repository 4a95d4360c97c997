"""ONNX Runtime: the target, and its backend."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.onnx_file import makers
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.errors import BadArtifact
from segclip_deploy.runtime.inference.backend import Backend, TensorSpec, checked
from segclip_deploy.runtime.targets.base import BuildOptions, Need, Runs, Settings, Target
from segclip_deploy.runtime.targets.device import has_gpu, usable_cores
from segclip_deploy.runtime.targets.reference import check_reference
from segclip_deploy.runtime.targets.tuning import (
    PROFILE_ROUNDS,
    PROFILE_WARM_UP,
    sum_layers,
    thread_counts,
)

__all__ = ["OnnxRuntime", "OnnxRuntimeBackend", "providers"]

_PROVIDERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),  # FP32 is FP32
    "tensorrt": ("TensorrtExecutionProvider", {}),
}
_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


class OnnxRuntime(Target):
    """Engines ``NAME.ort.onnx``: the bundle's model as it is."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    short = "ort"
    suffix = ".ort.onnx"
    scheme = Scheme.CPU
    takes_threads = True
    tried_apart = True

    def to_build(self) -> tuple[Need, ...]:
        """The package."""
        return (lambda: require("onnxruntime", why="an engine for it"),)

    def candidates(self, bundle: Bundle, options: BuildOptions) -> list[Settings]:
        """Thread counts; and the other providers, where there is a GPU."""
        del bundle, options
        found: list[Settings] = [{"threads": count} for count in thread_counts(usable_cores())]
        others = [name for name in providers() if name != "cpu"] if has_gpu() else []
        return found + [{"provider": name} for name in others]

    def open(
        self,
        model: Path,
        *,
        batches: range = range(1, 2),
        sha256: str | None = None,
        **settings: Any,
    ) -> Backend:
        """An ``OnnxRuntimeBackend``; settings as its arguments."""
        del sha256  # it compiles nothing worth keeping
        return OnnxRuntimeBackend(model, batches=batches, **settings)

    def time_layers(
        self, model: Path, backend: Backend, tile: NDArray[np.uint8], settings: Settings
    ) -> Runs | None:
        """By ONNX Runtime's profiler, on the CPU; elsewhere it sees the host's side only.

        What it fuses for its blocked layout it names after the tensor that is made; here it gets the
        name of the node that makes that tensor in the file.
        """
        if settings.get("provider", "cpu") != "cpu":
            return None
        ort = require("onnxruntime", why="running an ONNX model")
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.get("threads", 0)
        options.log_severity_level = 3
        options.enable_profiling = True
        with TemporaryDirectory() as folder:
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
            batch = backend.inputs[0].batches.stop - 1
            image = {backend.inputs[0].name: np.repeat(tile[None], batch, axis=0)}
            for _ in range(PROFILE_WARM_UP + PROFILE_ROUNDS):
                session.run(None, image)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        kernels = [event for event in events if event["name"].endswith("_kernel_time")]
        names = {f"{tensor}_nchwc": node for tensor, node in makers(model).items()}
        size = len(kernels) // (PROFILE_WARM_UP + PROFILE_ROUNDS)  # every run executes the same
        return [
            sum_layers(
                (
                    names.get(name := event["name"].removesuffix("_kernel_time"), name),
                    event["dur"] / 1e3,
                )
                for event in kernels[start : start + size]
            )
            for start in range(PROFILE_WARM_UP * size, len(kernels), size)
        ]


class OnnxRuntimeBackend(Backend):
    """Runs an ONNX file through buffers bound once for each change of batch.

    Args:
        model: the ONNX file; all shapes static, but for the batch.
        threads: within an operator; 0 lets ONNX Runtime choose.
        provider: of ``providers()``: what executes the operators it knows, the CPU the rest.
        batches: what to take where the file leaves the batch open.
        reference: the reference run: optimizations off, so every node as ONNX defines it, Q/DQ as
            rounding, and no fused kernels. It is slow. FP16 is computed in FP32 on x86-64, which has no kernels for it;
            on aarch64 in FP16, sums too.

    Raises:
        BadArtifact: ONNX Runtime refuses the file, or has no such provider here.
        MissingDependency: for the reference run, and this ONNX Runtime computes a node of it wrongly.
    """

    def __init__(
        self,
        model: Path,
        *,
        threads: int = 0,
        provider: str = "cpu",
        batches: range = range(1, 2),
        reference: bool = False,
    ) -> None:
        ort = require("onnxruntime", why="running an ONNX model")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Its threads would spin for some 50 ms after a run, and take the cores from whatever cuts the
        # next window; between the layers of a run they still do.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if reference:
            check_reference(model)
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        title, settings = _PROVIDERS[provider]
        try:
            self._session = ort.InferenceSession(
                str(model), options, providers=[(title, dict(settings))]
            )
        except Exception as error:  # its exceptions share no public base class
            raise BadArtifact(f"ONNX Runtime refuses it ({error})", where=model) from error
        if self._session.get_providers()[0] != title:  # it would go on without a word
            raise BadArtifact(
                f"it is run by ONNX Runtime's {title}, which cannot be loaded here",
                where=model,
                fix="pip install onnxruntime-gpu, for the CUDA that segclip-deploy doctor finds",
            )
        self.name = (
            f"ONNX Runtime {ort.__version__} {provider.upper()}" + ", reference run" * reference
        )
        self.inputs = tuple(_spec(node, batches) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node, batches) for node in self._session.get_outputs())
        self._arrays = {o.name: np.empty(o.shape, dtype=o.dtype) for o in self.outputs}
        self._binding = self._session.io_binding()
        self._results: dict[str, NDArray[Any]] = {}
        self._bound = 0  # the batch that the outputs are bound for

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once; the returned arrays are overwritten by the next call."""
        taken = [checked(arrays, spec) for spec in self.inputs]  # alive until the run is over
        for spec, array in zip(self.inputs, taken, strict=True):
            self._bind(self._binding.bind_input, spec, array)
        if len(taken[0]) != self._bound:
            self._bound = len(taken[0])
            self._results = {name: array[: self._bound] for name, array in self._arrays.items()}
            for spec in self.outputs:
                self._bind(self._binding.bind_output, spec, self._results[spec.name])
        self._session.run_with_iobinding(self._binding)
        return self._results

    def close(self) -> None:
        """Release the session."""
        del self._binding, self._session

    @staticmethod
    def _bind(bind: Callable[..., None], spec: TensorSpec, array: NDArray[Any]) -> None:
        bind(spec.name, "cpu", 0, spec.dtype, array.shape, array.ctypes.data)


def providers() -> tuple[str, ...]:
    """What this ONNX Runtime was built to run on: cpu, and cuda and tensorrt where it has them."""
    built = require("onnxruntime", why="running an ONNX model").get_available_providers()
    return tuple(name for name, (title, _) in _PROVIDERS.items() if title in built)


def _spec(node: Any, batches: range) -> TensorSpec:
    batch, *sides = node.shape
    if node.type not in _DTYPES or not all(isinstance(side, int) for side in sides):
        raise BadArtifact(
            f"tensor {node.name} is {node.type} {node.shape}; only the batch may be open"
        )
    dtype = np.dtype(_DTYPES[node.type])
    if isinstance(batch, int):
        return TensorSpec(node.name, (batch, *sides), dtype)
    return TensorSpec(node.name, (batches.stop - 1, *sides), dtype, batches.start)
