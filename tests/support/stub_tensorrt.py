"""A TensorRT in Python, for a machine that has a GPU and no TensorRT.

PyCUDA, cuda-bindings, the driver, streams, graphs and memory are the real ones. Only the engine is a
stand-in: on the stream that it is given, it copies its inputs to the host, lets ONNX Runtime answer,
and copies the answers back. A plan is a file that names an ONNX model, and in the lines below the
outputs that it has of that model, or none for all.
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
from tests.support.stub_engine import Context, Engine

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
            deserialize_cuda_engine=lambda plan: _engine(
                model_of(plan.splitlines()[0]), trt, failed, plan.decode().splitlines()[1:] or None
            )
        ),
    }
    for name, value in members.items():
        setattr(trt, name, value)
    sys.modules["tensorrt"] = trt
    return failed


def _engine(
    model: OnnxRuntimeBackend, trt: Any, failed: list[str], outputs: list[str] | None
) -> Engine:
    return Engine(model, trt, lambda: _Context(model, failed), outputs=outputs)


class _Context(Context):
    """What it enqueues can be recorded in a graph."""

    def __init__(self, model: OnnxRuntimeBackend, failed: list[str]) -> None:
        super().__init__(model)
        self._driver = Driver()
        self._host = {name: self._lock(spec) for name, spec in self.specs.items()}
        # A function of the host must outlive the stream's work and the graphs that hold it.
        batches = model.inputs[0].batches
        self._functions = {n: _function(model, failed, self._host, n) for n in batches}

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

    def execute_async_v3(self, stream: int) -> bool:
        on = ctypes.c_void_p(stream)
        for spec in self.model.inputs:
            to, device, size = self._ends(spec)
            self._driver("cuMemcpyDtoHAsync_v2", to, device, size, on)
        self._driver("cuLaunchHostFunc", on, self._functions[self.batch], None)
        for spec in (one for one in self.model.outputs if one.name in self.addresses):
            source, device, size = self._ends(spec)
            self._driver("cuMemcpyHtoDAsync_v2", device, source, size, on)
        return True

    def _ends(self, spec: TensorSpec) -> tuple[Any, Any, Any]:
        part = self._host[spec.name][: self.batch]
        device = ctypes.c_uint64(self.addresses[spec.name])
        return ctypes.c_void_p(part.ctypes.data), device, ctypes.c_size_t(part.nbytes)


def _function(
    model: OnnxRuntimeBackend, failed: list[str], host: dict[str, NDArray[Any]], batch: int
) -> Any:
    """What answers for a batch; it holds no context, so that a context ends when it is released."""

    def compute(_: Any) -> None:
        try:
            arrays = {spec.name: host[spec.name][:batch] for spec in model.inputs}
            for name, values in model.infer(arrays).items():
                host[name][:batch] = values
        except Exception as error:  # nobody above would see it
            failed.append(repr(error))

    return _FUNCTION(compute)
