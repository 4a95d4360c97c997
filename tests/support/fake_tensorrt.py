"""Stand-ins for a GPU, its driver and its TensorRT, where there is none.

Everything that builds is NVIDIA's own code, TensorRT-RTX's under the name of TensorRT. Only what
runs is pretended: device memory is host memory, and a plan is "run" by ONNX Runtime on the model
it was built from. So this proves our handling of plans, memory and records, and nothing about
what a GPU computes. Memory, streams, graphs, threads and faults are the matter of
``tests/fakecuda``, where PyCUDA is the real one.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segclip_deploy.runtime.inference import windows
from segclip_deploy.runtime.targets.device import Gpu
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.targets.tensorrt import builder
from segclip_deploy.runtime.targets.tensorrt.cuda import Cuda
from tests.support.stub_engine import Context, Engine, plan_outputs

ORIN = Gpu("Orin", "8.7", "540.4.0", "12.6", 8 << 30, multiprocessors=16)
INSPECTED = {
    "Layers": [
        {
            "Name": "conv",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "a", "Format/Datatype": "Row major linear FP16 format"}],
            "Outputs": [{"Name": "b", "Format/Datatype": "Row major linear FP16 format"}],
            "Metadata": "[ONNX Layer: encoder.stage1/Conv]\u001e[ONNX Layer: encoder.stage1/Clip]",
        }
    ],
    "Bindings": ["image", "labels"],
}


class StandIn:
    """What a test may change: the answers that are wrong, the milliseconds a plan takes."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.opened = 0  # plans
        self.profile = range(1, 2)  # batches that the last plan was built for
        self.batches: list[int] = []  # that contexts were set to, in order
        self.wrong: set[int] = set()  # plans, counted from 1, that answer wrongly
        self.delay: dict[int, float] = {}  # seconds, by plan
        self.memory: dict[int, bytearray] = {}
        self.information: dict[str, Any] = INSPECTED  # what the inspector tells of every plan


def install(monkeypatch: pytest.MonkeyPatch, model: Path, gpu: Gpu | None = ORIN) -> StandIn:
    """Pretend TensorRT, PyCUDA and, unless it is None, a GPU for one test."""
    state = StandIn(model)
    rtx = pytest.importorskip("tensorrt_rtx")
    trt = ModuleType("tensorrt")
    trt.__getattr__ = lambda name: getattr(rtx, name)  # type: ignore[method-assign]
    trt.__version__ = "10.3.0"  # type: ignore[attr-defined]
    trt.Runtime = lambda logger: SimpleNamespace(  # type: ignore[attr-defined]
        deserialize_cuda_engine=lambda data: _engine(state, rtx, logger, data)
    )
    package, driver = ModuleType("pycuda"), _driver(state)
    package.driver = driver  # type: ignore[attr-defined]
    for name, module in {
        "tensorrt": trt,
        "pycuda": package,
        "pycuda.driver": driver,
        "cuda.bindings.driver": None,  # not installed: no graphs
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    home = "segclip_deploy.runtime.targets.tensorrt"
    monkeypatch.setattr(f"{home}.tensorrt_backend.open_cuda", lambda: Cuda(driver))
    decoder = SimpleNamespace(decode=windows.decode, launch=partial(_launch, state))
    monkeypatch.setattr(f"{home}.plan_memory.GpuDecoder", lambda stream: decoder)
    add_profile = builder._add_profile

    def profiled(trt_builder: Any, network: Any, config: Any, batches: range) -> None:
        state.profile = batches
        add_profile(trt_builder, network, config, batches)

    monkeypatch.setattr(builder, "_add_profile", profiled)
    if gpu is not None:
        for module in ("target", "rtx"):
            monkeypatch.setattr(f"{home}.{module}.find_gpu", lambda why: gpu)
    return state


def remove_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let NVIDIA's driver be absent, wherever the test runs."""
    load = ctypes.CDLL

    def missing(name: str, *more: Any, **options: Any) -> Any:
        if name in ("libcuda.so.1", "nvcuda.dll"):
            raise OSError(f"{name}: cannot open shared object file")
        return load(name, *more, **options)

    monkeypatch.setattr(ctypes, "CDLL", missing)


def _engine(state: StandIn, rtx: Any, logger: Any, data: bytes) -> Any:
    if len(data) < 1_000_000:  # no plan of ours is so small
        logger.errors.append("Error Code 6: the plan is damaged")
        return None
    state.opened += 1
    context = _Context(state, state.opened)
    types = {np.dtype(np.uint8): rtx.uint8, np.dtype(np.float32): rtx.float32}
    return Engine(
        context.model,
        rtx,
        lambda: context,
        outputs=plan_outputs(data),
        types=types.__getitem__,
        information=json.dumps(state.information),
    )


class _Context(Context):
    """Answers at once, on the memory of the pretended driver."""

    def __init__(self, state: StandIn, number: int) -> None:
        super().__init__(OnnxRuntimeBackend(state.model, batches=state.profile))
        self._state, self._number = state, number

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        fits = super().set_input_shape(name, shape)
        if fits:
            self._state.batches.append(shape[0])
        return fits

    def execute_async_v3(self, _stream: int) -> bool:
        state, memory = self._state, self._state.memory
        if self.profiler is not None:
            self.profiler.report_layer_time("conv", 1.5)
        time.sleep(state.delay.get(self._number, 0.0))
        arrays = {}
        for spec in self.model.inputs:
            shape = self.get_tensor_shape(spec.name)
            flat = np.frombuffer(memory[self.addresses[spec.name]], spec.dtype, np.prod(shape))
            arrays[spec.name] = flat.reshape(shape)
        for name, values in self.model.infer(arrays).items():
            answer = np.zeros_like(values) if self._number in state.wrong else values
            if name in self.addresses:
                memory[self.addresses[name]][: answer.nbytes] = answer.tobytes()
        return True


def _launch(
    state: StandIn, logits: int, labels: int, margin: int | None, shape: tuple[int, ...]
) -> None:
    """What the kernel does, by NumPy."""
    given = np.frombuffer(state.memory[logits], np.float32, np.prod(shape)).reshape(shape)
    made = [windows.decode(one, margin=margin is not None) for one in given]
    parts = [np.stack([one for one, _ in made])]
    parts += [np.stack([one for _, one in made])] if margin is not None else []
    data = b"".join(part.tobytes() for part in parts)
    state.memory[labels][: len(data)] = data


def _driver(state: StandIn) -> ModuleType:
    class Allocation(int):
        pass

    def allocate(size: int) -> Allocation:
        address = Allocation(0x7000 + len(state.memory))
        state.memory[address] = bytearray(size)
        return address

    def upload(device: int, host: np.ndarray, stream: Any) -> None:
        state.memory[device][: host.nbytes] = host.tobytes()

    def download(host: np.ndarray, device: int, stream: Any) -> None:
        host[...] = np.frombuffer(state.memory[device], host.dtype, host.size).reshape(host.shape)

    def lock(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.zeros(shape, dtype)

    class Event:
        def record(self, stream: Any) -> None:
            self.at = time.perf_counter()

        def time_since(self, other: Event) -> float:
            return 1e3 * (self.at - other.at)

    class Error(Exception):
        pass

    context = SimpleNamespace(push=lambda: None, pop=lambda: None)
    driver = ModuleType("pycuda.driver")
    for name, value in {
        "init": lambda: None,
        "Device": lambda index: SimpleNamespace(
            retain_primary_context=lambda: context,
            name=lambda: ORIN.gpu,
            get_attribute=lambda attribute: 0,
        ),
        "Error": Error,
        "Event": Event,
        "Stream": lambda: SimpleNamespace(handle=1, synchronize=lambda: None),
        "device_attribute": SimpleNamespace(INTEGRATED=18),
        "pagelocked_empty": lock,
        "mem_alloc": allocate,
        "mem_get_info": lambda: (6 << 30, 8 << 30),
        "memcpy_htod_async": upload,
        "memcpy_dtoh_async": download,
    }.items():
        setattr(driver, name, value)
    return driver
