"""OpenVINO: the target, and its backend."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.precision_share import Layer, node_blocks
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.errors import BadArtifact, command
from segclip_deploy.runtime.inference.backend import Backend, TensorSpec, checked
from segclip_deploy.runtime.targets.base import BuildOptions, Need, Runs, Settings, Target
from segclip_deploy.runtime.targets.compile_cache import CompileCache
from segclip_deploy.runtime.targets.device import find_cpu, usable_cores
from segclip_deploy.runtime.targets.tuning import (
    PROFILE_ROUNDS,
    PROFILE_WARM_UP,
    sum_layers,
    thread_counts,
)

__all__ = ["OpenVino", "OpenVinoBackend", "precisions"]


class OpenVino(Target):
    """Engines ``NAME.ov.onnx``: the bundle's model, compiled when it is opened."""

    name = "openvino"
    title = "OpenVINO"
    short = "ov"
    suffix = ".ov.onnx"
    scheme = Scheme.CPU
    devices = ("CPU", "AUTO", "GPU", "NPU")
    takes_threads = True
    compile_cache = True
    tried_apart = True
    options = frozenset({"--require-precision"})

    def to_build(self) -> tuple[Need, ...]:
        """The package."""
        return (lambda: require("openvino", why="an engine for it"),)

    def candidates(self, bundle: Bundle, options: BuildOptions) -> list[Settings]:
        """Thread counts, in every precision that a quantized model may have beside INT8.

        On another device than the CPU there are no threads to choose.
        """
        device = options.device or self.devices[0]
        # What was exported as FP32 is run as FP32: in BF16 it would be another model.
        offered = ("f32",) if bundle.precision == "fp32" else precisions(device)
        if device != self.devices[0]:
            return [{"device": device, "precision": precision} for precision in offered]
        return [
            {"threads": threads, "precision": precision}
            for precision, threads in product(offered, thread_counts(usable_cores()))
        ]

    def open(
        self,
        model: Path,
        *,
        batches: range = range(1, 2),
        sha256: str | None = None,
        **settings: Any,
    ) -> Backend:
        """An ``OpenVinoBackend``; settings as its arguments."""
        return OpenVinoBackend(model, batches=batches, sha256=sha256, **settings)

    def beside_int8(self) -> str:
        """BF16 where the processor has it."""
        return precisions()[-1]

    def float_settings(self, precision: str) -> Settings:
        """The precision."""
        return {"precision": precision}

    def layers(self, backend: Backend) -> tuple[Layer, ...] | None:
        """As the compiled model tells them."""
        assert isinstance(backend, OpenVinoBackend)
        return backend.layers()

    def time_layers(
        self, model: Path, backend: Backend, tile: NDArray[np.uint8], settings: Settings
    ) -> Runs | None:
        """By OpenVINO's counters, on a model compiled with them; counting costs a few percent itself."""
        del backend
        ov = require("openvino", why="a profile by layer")
        options = dict(settings)
        device = options.pop("device", "CPU")
        config = _config(**options) | {"PERF_COUNT": "YES"}
        compiled = ov.Core().compile_model(str(model), device, config)
        request = compiled.create_infer_request()
        shape = compiled.inputs[0].partial_shape
        batch = shape[0].get_length() if shape[0].is_static else 1
        image = np.repeat(tile[None], batch, axis=0)

        def run() -> Mapping[str, float]:
            request.infer({"image": image})
            return sum_layers(
                (info.node_name, 1e3 * info.real_time.total_seconds())
                for info in request.profiling_info
            )

        return [run() for _ in range(PROFILE_WARM_UP + PROFILE_ROUNDS)][PROFILE_WARM_UP:]


class OpenVinoBackend(Backend):
    """Compiles an ONNX file, for latency, with outputs bound for each change of batch.

    Args:
        model: the ONNX file; all shapes static, but for the batch.
        device: of OpenVINO; AUTO lets it choose.
        threads: of the CPU; 0 lets OpenVINO choose.
        precision: of what the file leaves in floating point: ``"f32"`` or ``"bf16"``.
        batches: what to take where the file leaves the batch open.
        sha256: of the file, checked by whoever gives it; with it, what OpenVINO compiles is kept
            in the compile cache and found there the next time. None compiles every time.

    Raises:
        BadArtifact: OpenVINO refuses the file, the device is not here, or has no such precision.
        MissingDependency: OpenVINO is not installed.
    """

    def __init__(
        self,
        model: Path,
        *,
        device: str = "CPU",
        threads: int = 0,
        precision: str = "f32",
        batches: range = range(1, 2),
        sha256: str | None = None,
    ) -> None:
        ov = require("openvino", why="an OpenVINO engine")
        _check_device(ov, device)
        if precision != "f32" and precision not in precisions(device):
            raise BadArtifact(f"it is run in {precision}, which this {device} has not", where=model)
        config = _config(threads, precision)
        try:
            compiled = _compile(ov, model, device, config, batches, sha256)
        except RuntimeError as error:
            raise BadArtifact(f"OpenVINO refuses it ({error})", where=model) from error
        self.name = f"OpenVINO {ov.__version__.split('-')[0]} {device} {precision}"
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_spec(port) for port in compiled.outputs)
        self._tensor = ov.Tensor
        self._compiled = compiled
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

    def layers(self) -> tuple[Layer, ...] | None:
        """Layers of the compiled model; None where the device's plugin tells none."""
        try:
            model = self._compiled.get_runtime_model()
        except RuntimeError:
            return None
        return tuple(_layer(made) for made in model.get_ordered_ops() if _told(made)[0] != "Const")

    def close(self) -> None:
        """Release the compiled model."""
        del self._request, self._compiled


_TYPES = {
    "i8": "int8",
    "u8": "uint8",
    "f16": "fp16",
    "bf16": "bf16",
    "f32": "fp32",
    "i32": "int32",
    "i64": "int64",
    "boolean": "bool",
}
"""OpenVINO's element types, as ours are called."""


def _layer(made: Any) -> Layer:
    """A node of a compiled model."""
    kind, nodes = _told(made)
    return Layer(
        name=made.get_friendly_name(),
        type=kind,
        blocks=node_blocks(nodes),
        reads=tuple(_TYPES.get(p.get_element_type().get_type_name()) for p in made.inputs()),
        writes=tuple(_TYPES.get(p.get_element_type().get_type_name()) for p in made.outputs()),
        nodes=nodes,
    )


def _told(made: Any) -> tuple[str | None, tuple[str, ...]]:
    """The type of a compiled model's node, and the nodes of the ONNX file that it was made of."""
    info = made.get_rt_info()
    kind, nodes = (
        info[key].astype(str) if key in info else "" for key in ("layerType", "originalLayersNames")
    )
    return kind or None, tuple(filter(None, nodes.split(",")))


def _config(threads: int = 0, precision: str = "f32") -> dict[str, str]:
    """How OpenVINO compiles for latency; arguments as of ``OpenVinoBackend``."""
    chosen = {
        "PERFORMANCE_HINT": "LATENCY",
        # By default OpenVINO picks the precision by the processor, and the labels with it.
        "INFERENCE_PRECISION_HINT": precision,
    }
    return chosen | ({"INFERENCE_NUM_THREADS": str(threads)} if threads else {})


def precisions(device: str = "CPU") -> tuple[str, ...]:
    """Floating-point precisions OpenVINO offers on a device: f32, and bf16 where it has it.

    Raises:
        MissingDependency: OpenVINO is not installed.
    """
    ov = require("openvino", why="an OpenVINO engine")
    _check_device(ov, device)
    offered = ov.Core().get_property(device, "OPTIMIZATION_CAPABILITIES")
    return ("f32", "bf16") if "BF16" in offered else ("f32",)


def _check_device(ov: Any, device: str) -> None:
    """Accept a device that OpenVINO finds here; AUTO is none itself, and chooses among them."""
    if device in ("CPU", "AUTO"):  # to ask loads the plugins of all: 17 MB, at every start
        return
    here = ov.Core().available_devices  # "GPU.0", "GPU.1" where there are two
    if device not in {name.partition(".")[0] for name in here}:
        raise BadArtifact(
            f"OpenVINO finds no {device} here, only {', '.join(here)}",
            where="--device",
            fix=command(
                *("segclip-deploy", "build-engine", "BUNDLE", "-o", "ENGINE"),
                *("--device", here[0].partition(".")[0]),
            ),
        )


def _compile(
    ov: Any, model: Path, device: str, config: dict[str, str], batches: range, sha256: str | None
) -> Any:
    """The compiled model, from the compile cache where it is there."""
    core = ov.Core()
    # Another device may change between two starts, and AUTO cannot be stored.
    cache = (
        sha256
        and device == "CPU"
        and CompileCache.of(
            "openvino",
            {
                "model": sha256,
                "openvino": ov.__version__,
                "config": config,
                "batches": [batches.start, batches.stop],
                "cpu": find_cpu().to_json(),
            },
        )
    )
    if cache and (stored := cache.read()):
        with suppress(RuntimeError):  # OpenVINO refuses it: compile
            return core.import_model(stored, device, config)
    graph = core.read_model(str(model))
    if graph.is_dynamic():
        limits = ov.Dimension(batches.start, batches.stop - 1)
        graph.reshape({port: [limits, *list(port.partial_shape)[1:]] for port in graph.inputs})
    compiled = core.compile_model(graph, device, config)
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
