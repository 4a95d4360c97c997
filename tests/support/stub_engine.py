"""What stand-ins of TensorRT have in common: an engine that is an ONNX model, and its context."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend

__all__ = ["Context", "Engine", "plan_outputs", "with_logits"]


def plan_outputs(plan: bytes) -> tuple[str, ...] | None:
    """Outputs of a plan of NVIDIA's builder, which names them; None: those of the bundle."""
    return None if b"labels" in plan else ("logits",)


def with_logits(model: Path, to: Path) -> Path:
    """Write a model with its logits among its outputs."""
    import onnx  # a machine with a GPU may have none, and needs this not

    made = onnx.load(model)
    if all(output.name != "logits" for output in made.graph.output):
        made.graph.output.append(onnx.helper.make_empty_tensor_value_info("logits"))
    onnx.save(made, to)
    return to


class Context:
    """IExecutionContext, but for running: addresses, and a shape within the profile."""

    profiler: Any = None

    def __init__(self, model: OnnxRuntimeBackend) -> None:
        self.model = model
        self.specs = {spec.name: spec for spec in (*model.inputs, *model.outputs)}
        self.addresses: dict[str, int] = {}
        self.batch = model.inputs[0].shape[0]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = int(address)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        fits = shape[0] in self.model.inputs[0].batches and shape[1:] == self.specs[name].shape[1:]
        self.batch = shape[0] if fits else self.batch
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.batch, *self.specs[name].shape[1:])


class Engine:
    """ICudaEngine, as far as the package uses it.

    Args:
        model: that answers.
        trt: the module that TensorRT's names are taken from.
        context: makes an execution context.
        outputs: names of those that the plan has; None: all of the model.
        types: NumPy's types → the library's.
        information: of the inspector, JSON.
    """

    def __init__(
        self,
        model: OnnxRuntimeBackend,
        trt: Any,
        context: Callable[[], Any],
        *,
        outputs: Collection[str] | None = None,
        types: Callable[[np.dtype[Any]], Any] = np.dtype,
        information: str = '{"Layers": []}',
    ) -> None:
        given = [spec for spec in model.outputs if outputs is None or spec.name in outputs]
        self._specs = {spec.name: spec for spec in (*model.inputs, *given)}
        self._inputs = {spec.name for spec in model.inputs}
        self._batches = model.inputs[0].batches
        self._mode, self._types, self._information = trt.TensorIOMode, types, information
        self.num_io_tensors = len(self._specs)
        self.create_execution_context = context

    def get_tensor_name(self, index: int) -> str:
        return list(self._specs)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self._mode.INPUT if name in self._inputs else self._mode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        spec = self._specs[name]
        return spec.shape if spec.min_batch is None else (-1, *spec.shape[1:])

    def get_tensor_profile_shape(self, name: str, _profile: int) -> list[tuple[int, ...]]:
        sides = self._specs[name].shape[1:]
        return [(batch, *sides) for batch in (self._batches[0], *2 * [self._batches[-1]])]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._types(self._specs[name].dtype)

    def create_engine_inspector(self) -> Any:
        def told(_layout: Any) -> str:
            assert inspector.execution_context is not None  # without, TensorRT says less
            return self._information

        inspector = SimpleNamespace(get_engine_information=told, execution_context=None)
        return inspector
