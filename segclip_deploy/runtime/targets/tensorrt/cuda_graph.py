"""CUDA graphs: a network's many kernel launches, recorded once and launched as one.

PyCUDA has no graphs; cuda-bindings records on PyCUDA's own stream.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from segclip_deploy._optional import require
from segclip_deploy.errors import MissingDependency

if TYPE_CHECKING:
    from cuda.bindings import driver

    class Bindings:
        """The driver module of cuda-bindings, as a type: what this package uses of it."""

        CUresult = driver.CUresult
        CUstream = driver.CUstream
        CUstreamCaptureMode = driver.CUstreamCaptureMode
        cuGraphDestroy = staticmethod(driver.cuGraphDestroy)  # noqa: N815
        cuGraphInstantiate = staticmethod(driver.cuGraphInstantiate)  # noqa: N815
        cuGraphLaunch = staticmethod(driver.cuGraphLaunch)  # noqa: N815
        cuStreamBeginCapture = staticmethod(driver.cuStreamBeginCapture)  # noqa: N815
        cuStreamEndCapture = staticmethod(driver.cuStreamEndCapture)  # noqa: N815

else:
    Bindings = ModuleType

__all__ = ["CannotRecord", "record"]


class CannotRecord(Exception):
    """Why there is no graph; the same work can be launched plainly, with the same result."""


def record(enqueue: Callable[[], bool], stream: int) -> Callable[[], None]:
    """Record what ``enqueue`` puts on a stream; what is returned launches it.

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
    enqueued = enqueue()
    # A capture that failed must be ended, too, or the stream stays unusable.
    graph = called("cuStreamEndCapture", cuda.cuStreamEndCapture(handle))
    if not enqueued:
        raise CannotRecord("TensorRT does not run while it is recorded")
    ready = called("cuGraphInstantiate", cuda.cuGraphInstantiate(graph, 0))
    called("cuGraphDestroy", cuda.cuGraphDestroy(graph))
    return lambda: called("cuGraphLaunch", cuda.cuGraphLaunch(ready, handle))


def _load() -> Bindings:
    try:
        return cast("Bindings", require("cuda.bindings.driver", why="recording a CUDA graph"))
    except MissingDependency as error:
        raise CannotRecord("cuda-bindings is not installed") from error
    except Exception as error:  # installed, and not for the driver that is here
        raise CannotRecord(f"cuda-bindings cannot be loaded: {error}") from error
