"""A TensorRT in Python, for a machine that has a GPU and no TensorRT.

PyCUDA, cuda-bindings, the driver, streams, graphs and memory are the real ones. Only the engine is a
stand-in: on the stream that it is given, it copies its inputs to the host, lets ONNX Runtime answer,
and copies the answers back. A plan is a file that names an ONNX model.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from enum import Enum
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.runtime.inference.backend import TensorSpec
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend

__all__ = ["Driver", "install"]

_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Driver:
    """CUDA's driver, called by the names of its functions.

    Raises:
        RuntimeError: a call fails; its code is the second argument.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a function; addresses are to be ``c_void_p`` or ``c_uint64``."""
        if code := getattr(self._library, name)(*arguments):
            raise RuntimeError(f"{name}: CUDA error {code}", code)


def install(batches: range) -> list[str]:
    """Put the stand-in in the place of TensorRT, for the rest of this process.

    Args:
        batches: that a plan's profile allows.

    Returns:
        what goes wrong inside of engines, as it does.
    """
    failed: list[str] = []

    @cache  # opening a plan again is to cost nothing but what the package does
    def model_of(plan: bytes) -> OnnxRuntimeBackend:
        return OnnxRuntimeBackend(Path(plan.decode()), threads=1, batches=batches)

    trt = ModuleType("tensorrt")
    members = {
        "__version__": "10.3.0",
        "ILogger": type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0}),
        "IProfiler": type("IProfiler", (), {}),
        "LayerInformationFormat": SimpleNamespace(JSON=1),
        "TensorIOMode": Enum("TensorIOMode", "INPUT OUTPUT"),
        "nptype": np.dtype,
        "Runtime": lambda _: SimpleNamespace(
            deserialize_cuda_engine=lambda plan: _Engine(model_of(plan), failed)
        ),
    }
    for name, value in members.items():
        setattr(trt, name, value)
    sys.modules["tensorrt"] = trt
    return failed


class _Engine:
    """ICudaEngine, as far as the package uses it."""

    def __init__(self, model: OnnxRuntimeBackend, failed: list[str]) -> None:
        self.model, self.failed = model, failed
        self.specs = {spec.name: spec for spec in (*model.inputs, *model.outputs)}
        self.batches = model.inputs[0].batches
        self.num_io_tensors = len(self.specs)

    def get_tensor_name(self, index: int) -> str:
        return list(self.specs)[index]

    def get_tensor_mode(self, name: str) -> Any:
        mode = sys.modules["tensorrt"].TensorIOMode
        return mode.INPUT if self.specs[name] in self.model.inputs else mode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        spec = self.specs[name]
        return spec.shape if spec.min_batch is None else (-1, *spec.shape[1:])

    def get_tensor_profile_shape(self, name: str, _index: int) -> list[tuple[int, ...]]:
        sides = self.specs[name].shape[1:]
        return [(batch, *sides) for batch in (self.batches[0], *2 * [self.batches[-1]])]

    def get_tensor_dtype(self, name: str) -> np.dtype[Any]:
        return self.specs[name].dtype

    def create_execution_context(self) -> _Context:
        return _Context(self)


class _Context:
    """IExecutionContext: what it enqueues can be recorded in a graph."""

    def __init__(self, engine: _Engine) -> None:
        self._engine, self._driver = engine, Driver()
        self._addresses: dict[str, int] = {}
        self._host = {name: self._lock(spec) for name, spec in engine.specs.items()}
        self._batch = engine.batches[-1]
        # A function of the host must outlive the stream's work and the graphs that hold it.
        self._functions = {batch: _function(engine, self._host, batch) for batch in engine.batches}

    def _lock(self, spec: TensorSpec) -> NDArray[Any]:
        """Page-locked memory, so that copies are asynchronous and can be recorded."""
        size = int(np.prod(spec.shape)) * spec.dtype.itemsize
        address = ctypes.c_void_p()
        self._driver("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), 0)
        assert address.value is not None
        memory = (ctypes.c_char * size).from_address(address.value)
        return np.frombuffer(memory, spec.dtype).reshape(spec.shape)

    def __del__(self) -> None:
        for array in self._host.values():
            with suppress(RuntimeError):  # of a GPU that is lost
                self._driver("cuMemFreeHost", ctypes.c_void_p(array.ctypes.data))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def set_input_shape(self, _name: str, shape: tuple[int, ...]) -> bool:
        self._batch = shape[0]
        return shape[0] in self._engine.batches

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self._batch, *self._engine.specs[name].shape[1:])

    def execute_async_v3(self, stream: int) -> bool:
        on = ctypes.c_void_p(stream)
        for spec in self._engine.model.inputs:
            to, device, size = self._ends(spec)
            self._driver("cuMemcpyDtoHAsync_v2", to, device, size, on)
        self._driver("cuLaunchHostFunc", on, self._functions[self._batch], None)
        for spec in self._engine.model.outputs:
            source, device, size = self._ends(spec)
            self._driver("cuMemcpyHtoDAsync_v2", device, source, size, on)
        return True

    def _ends(self, spec: TensorSpec) -> tuple[Any, Any, Any]:
        part = self._host[spec.name][: self._batch]
        device = ctypes.c_uint64(self._addresses[spec.name])
        return ctypes.c_void_p(part.ctypes.data), device, ctypes.c_size_t(part.nbytes)


def _function(engine: _Engine, host: dict[str, NDArray[Any]], batch: int) -> Any:
    """What answers for a batch; it holds no context, so that a context ends when it is released."""

    def compute(_: Any) -> None:
        try:
            arrays = {spec.name: host[spec.name][:batch] for spec in engine.model.inputs}
            for name, values in engine.model.infer(arrays).items():
                host[name][:batch] = values
        except Exception as error:  # nobody above would see it
            engine.failed.append(repr(error))

    return _FUNCTION(compute)
