"""TensorRT on the driver without a GPU: its builder is NVIDIA's own, its engine a stand-in.

The builder is TensorRT-RTX's, which needs no GPU, under the name of TensorRT. An engine puts ONNX
Runtime on the stream that it is given, as a function of the host: it reads and writes the device
memory it was told of, and only when somebody waits for the stream.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.targets.tensorrt.cuda import open_cuda
from tests.support.stub_engine import Context, Engine, plan_outputs, with_logits

__all__ = ["Driver", "State", "install"]

KINDS = ("device", "pinned", "streams", "events", "graphs", "executable graphs", "modules",
         "primary contexts")  # fmt: skip
_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Driver:
    """What the fake driver offers to tests, see ``driver.c``."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.library.fake_host.restype = ctypes.c_void_p
        self.library.fake_host.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
        self.library.fake_call.restype = ctypes.c_char_p

    def alive(self) -> dict[str, int]:
        """Objects that were made and not destroyed, those of which there are any."""
        counts = (ctypes.c_int * len(KINDS))()
        self.library.fake_alive(counts)
        return {kind: n for kind, n in zip(KINDS, counts, strict=True) if n}

    def watch(self) -> None:
        """Note the names of calls from now on."""
        self.library.fake_watch()

    def calls(self) -> list[str]:
        """Names of the calls since ``watch``."""
        count = self.library.fake_called()
        return [self.library.fake_call(index).decode() for index in range(count)]

    def inject(self, after: int, code: int, name: str = "", *, often: bool = False) -> None:
        """Let a call fail, counted from 0 from now; of one function, or of any; or all from it on."""
        self.library.fake_inject(name.encode(), after, code, often)

    def fired(self) -> int:
        """How many calls have failed since ``inject``."""
        return int(self.library.fake_fired())

    def integrate(self) -> None:
        """One memory for host and GPU from now on, as on a Jetson."""
        self.library.fake_integrated(1)

    def depth(self) -> int:
        """Contexts on this thread's stack."""
        return int(self.library.fake_depth())

    def array(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Device memory.

        Raises:
            ValueError: no memory of the GPU.
        """
        size = int(np.prod(shape)) * dtype.itemsize
        host = self.library.fake_host(address, size)
        if not host:
            raise ValueError(f"illegal address {address:#x}")
        return np.frombuffer((ctypes.c_char * size).from_address(host), dtype).reshape(shape)


@dataclass
class State:
    """What engines do.

    Attributes:
        bundle: that every plan is of.
        before: what was alive at the last ``restart``.
        refuses: TensorRT does not enqueue.
        failed: what went wrong inside of engines.
        functions: of the host, which must outlive the stream's work.
    """

    driver: Driver
    bundle: Bundle | None = None
    before: dict[str, int] = field(default_factory=dict)
    refuses: bool = False
    failed: list[str] = field(default_factory=list)
    functions: list[Any] = field(default_factory=list)

    def restart(self) -> None:
        """As a new process: no fault, also none that stays; what is alive now does not count."""
        open_cuda.cache_clear()
        gc.collect()
        self.driver.library.fake_restart()
        open_cuda()
        self.failed, self.refuses, self.before = [], False, self.driver.alive()

    def reference(self) -> OnnxRuntimeBackend:
        """What answers for the bundle's plans, its logits among the outputs."""
        assert self.bundle is not None
        return _reference(self.bundle.model_path, self.bundle.input.batches)

    def left(self) -> dict[str, int]:
        """What is alive, and was not at the last ``restart``."""
        now = self.driver.alive()
        more = {kind: count - self.before.get(kind, 0) for kind, count in now.items()}
        return {kind: count for kind, count in more.items() if count}


def install() -> State:
    """Put the stand-in in the place of TensorRT, for the rest of this process."""
    import tensorrt_rtx as rtx

    state = State(Driver())
    trt = ModuleType("tensorrt")
    trt.__getattr__ = lambda name: getattr(rtx, name)  # type: ignore[method-assign]
    trt.__version__ = "10.3.0"  # type: ignore[attr-defined]
    trt.Runtime = lambda logger: SimpleNamespace(  # type: ignore[attr-defined]
        deserialize_cuda_engine=lambda data: _engine(state, rtx, logger, data)
    )
    sys.modules["tensorrt"] = trt
    return state


def _engine(state: State, rtx: Any, logger: Any, data: bytes) -> Any:
    if len(data) < 1_000_000:  # no plan of ours is so small
        logger.errors.append("Error Code 6: the plan is damaged")
        return None
    assert state.bundle is not None
    model = state.reference()
    types = {np.dtype(np.uint8): rtx.uint8, np.dtype(np.float32): rtx.float32}
    return Engine(
        model,
        rtx,
        lambda: _Context(state, model),
        outputs=plan_outputs(data) or state.bundle.outputs,
        types=types.__getitem__,
    )


@cache
def _reference(model: Path, batches: range) -> OnnxRuntimeBackend:
    """One for all engines of a bundle: opening one takes longer than all that is tested."""
    with TemporaryDirectory() as folder:
        whole = with_logits(model, Path(folder) / "model.onnx")
        return OnnxRuntimeBackend(whole, batches=batches)


class _Context(Context):
    """Shapes and addresses are those at the time it is enqueued."""

    def __init__(self, state: State, model: OnnxRuntimeBackend) -> None:
        super().__init__(model)
        self._state = state

    def execute_async_v3(self, stream: int) -> bool:
        if self._state.refuses:
            return False
        batch, addresses = self.batch, dict(self.addresses)
        driver = self._state.driver

        def array(name: str) -> NDArray[Any]:
            spec = self.specs[name]
            return driver.array(addresses[name], (batch, *spec.shape[1:]), spec.dtype)

        def compute(_argument: Any) -> None:
            try:
                arrays = {spec.name: array(spec.name) for spec in self.model.inputs}
                for name, values in self.model.infer(arrays).items():
                    if name in addresses:
                        array(name)[...] = values
                if self.profiler is not None:
                    self.profiler.report_layer_time("conv", 1.5)
            except Exception as error:  # a function of the host must not raise
                self._state.failed.append(repr(error))

        function = _FUNCTION(compute)
        self._state.functions.append(function)
        return driver.library.cuLaunchHostFunc(ctypes.c_void_p(stream), function, None) == 0
