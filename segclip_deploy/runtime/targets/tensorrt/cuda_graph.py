"""CUDA graphs: a network's many kernel launches, recorded once and launched as one.

PyCUDA has no graphs; cuda-bindings records on PyCUDA's own stream.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from segclip_deploy._optional import require
from segclip_deploy.errors import MissingDependency
from segclip_deploy.runtime.targets.tensorrt.library import load_cuda

if TYPE_CHECKING:
    from cuda.bindings import driver

    class Bindings:
        """The driver module of cuda-bindings, as a type: what this package uses of it."""

        CUresult = driver.CUresult
        CUstream = driver.CUstream
        CUstreamCaptureMode = driver.CUstreamCaptureMode
        cuGraphDestroy = staticmethod(driver.cuGraphDestroy)  # noqa: N815
        cuGraphExecDestroy = staticmethod(driver.cuGraphExecDestroy)  # noqa: N815
        cuGraphInstantiate = staticmethod(driver.cuGraphInstantiate)  # noqa: N815
        cuGraphLaunch = staticmethod(driver.cuGraphLaunch)  # noqa: N815
        cuStreamBeginCapture = staticmethod(driver.cuStreamBeginCapture)  # noqa: N815
        cuStreamEndCapture = staticmethod(driver.cuStreamEndCapture)  # noqa: N815

else:
    Bindings = ModuleType

__all__ = ["CannotRecord", "CudaGraph", "record"]


class CannotRecord(Exception):
    """Why there is no graph; the same work can be launched plainly, with the same result."""


class CudaGraph:
    """Work that was recorded on a stream.

    Args:
        driver: cuda-bindings' driver module.
        ready: the executable graph.
        stream: of cuda-bindings, which it was recorded on.
    """

    def __init__(self, driver: Bindings, ready: Any, stream: Any) -> None:
        self._driver, self._ready, self._stream = driver, ready, stream

    def launch(self) -> None:
        """Put the work on the stream.

        Raises:
            pycuda.driver.Error: the driver refuses it.
        """
        (code,) = self._driver.cuGraphLaunch(self._ready, self._stream)
        if code != self._driver.CUresult.CUDA_SUCCESS:
            raise load_cuda().Error(f"cuGraphLaunch failed: {code.name}")

    def close(self) -> None:
        """Release it; a second time does nothing."""
        if self._ready is not None:
            self._driver.cuGraphExecDestroy(self._ready)
        self._ready = None


def record(enqueue: Callable[[], bool], stream: int) -> CudaGraph:
    """Record what ``enqueue`` puts on a stream.

    Args:
        enqueue: run once here, without effect; it must have run once before, since TensorRT
            finishes what it deferred at the first run, and that cannot be recorded.
        stream: handle of a stream that nothing is waiting on.

    Raises:
        CannotRecord: with the reason.
    """
    cuda = _load()

    def called(what: str, result: tuple[Any, ...]) -> Any:
        code, *values = result
        if code != cuda.CUresult.CUDA_SUCCESS:
            raise CannotRecord(f"{what}: {code.name}")
        return values[0] if values else None

    handle = cuda.CUstream(stream)
    # Of this thread alone: others may allocate meanwhile.
    mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    called("cuStreamBeginCapture", cuda.cuStreamBeginCapture(handle, mode))
    enqueued = False
    try:
        enqueued = enqueue()
    finally:
        # A capture that failed must be ended, too, or the stream stays unusable.
        ended = cuda.cuStreamEndCapture(handle)
    graph = called("cuStreamEndCapture", ended)
    try:
        if not enqueued:
            raise CannotRecord("TensorRT does not run while it is recorded")
        ready = called("cuGraphInstantiate", cuda.cuGraphInstantiate(graph, 0))
    finally:
        with suppress(CannotRecord):  # it is not needed any more, and the reason above counts
            called("cuGraphDestroy", cuda.cuGraphDestroy(graph))
    return CudaGraph(cuda, ready, handle)


def _load() -> Bindings:
    try:
        return cast("Bindings", require("cuda.bindings.driver", why="recording a CUDA graph"))
    except MissingDependency as error:
        raise CannotRecord("cuda-bindings is not installed") from error
    except Exception as error:  # installed, and not for the driver that is here
        raise CannotRecord(f"cuda-bindings cannot be loaded: {error}") from error
