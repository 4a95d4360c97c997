"""Which TensorRT: the module, its name and version, and what it complains of."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from segclip_deploy._optional import install_command, require
from segclip_deploy.errors import MissingDependency
from segclip_deploy.runtime.targets.device import find_jetson

if TYPE_CHECKING:
    import tensorrt
    import tensorrt_rtx

    class Library:
        """The module of TensorRT or TensorRT-RTX, as a type: what this package uses of it.

        Without TensorRT it is all ``Any``. ``tests/runtime/targets/tensorrt/test_contract.py``
        holds every name and call against the stubs of each supported version.
        """

        __name__: str
        __version__: str
        Builder = tensorrt.Builder
        BuilderFlag = tensorrt.BuilderFlag
        DeviceType = tensorrt.DeviceType
        HardwareCompatibilityLevel = tensorrt.HardwareCompatibilityLevel
        ILogger = tensorrt.ILogger
        IProfiler = tensorrt.IProfiler
        IProgressMonitor = tensorrt.IProgressMonitor
        LayerInformationFormat = tensorrt.LayerInformationFormat
        MemoryPoolType = tensorrt.MemoryPoolType
        NetworkDefinitionCreationFlag = tensorrt.NetworkDefinitionCreationFlag
        OnnxParser = tensorrt.OnnxParser
        OnnxParserRefitter = tensorrt.OnnxParserRefitter
        ProfilingVerbosity = tensorrt.ProfilingVerbosity
        Refitter = tensorrt.Refitter
        Runtime = tensorrt.Runtime
        TensorIOMode = tensorrt.TensorIOMode
        nptype = staticmethod(tensorrt.nptype)

    class RtxLibrary:
        """What this package uses of TensorRT-RTX and TensorRT has not."""

        ComputeCapability = tensorrt_rtx.ComputeCapability

else:
    Library = RtxLibrary = ModuleType

__all__ = [
    "MODULES",
    "Library",
    "RtxLibrary",
    "complaints",
    "library_name",
    "load_cuda",
    "load_library",
    "logger_of",
]

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Python module by target."""

_TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


def load_library(target: str) -> Library:
    """The library of a target.

    Raises:
        MissingDependency: it is not installed, with the way this machine gets it.
    """
    module = MODULES[target]
    loaded = _load(
        module,
        why=f"a {_TITLES[module]} engine",
        on_jetson="TensorRT comes with JetPack, not from pip: docs/how-to/jetson.md"
        if module == "tensorrt"
        else "there is no TensorRT-RTX for Jetson, build NAME.engine",
    )
    return cast("Library", loaded)


def load_cuda(extra: str = "tensorrt") -> ModuleType:
    """PyCUDA's driver module.

    Args:
        extra: of this package, which installs it for who needs it; on a Jetson it is ``jetson``.

    Raises:
        MissingDependency: it is not installed, or finds no driver.
    """
    return _load(
        "pycuda.driver",
        why="running an engine on the GPU",
        on_jetson=install_command("jetson"),
        extra=extra,
    )


def _load(module: str, *, why: str, on_jetson: str, extra: str | None = None) -> ModuleType:
    try:
        return require(module, why=why, extra=extra)
    except MissingDependency as error:
        raise MissingDependency(
            error.what, fix=on_jetson if find_jetson() else error.fix
        ) from error
    except ImportError as error:  # installed, but a shared library it needs is not
        raise MissingDependency(
            f"{why} needs {module}, which is installed and cannot be loaded ({error})",
            fix="reinstall it for the CUDA that segclip-deploy doctor finds",
        ) from error


def library_name(trt: Library) -> str:
    """Name and version, for example ``"TensorRT 10.3.0"``."""
    return f"{_TITLES[trt.__name__]} {trt.__version__}"


@cache
def logger_of(trt: Library) -> Any:
    """The library's one logger: it keeps errors in ``logger.errors`` and prints nothing.

    One for the process: the libraries hold on to the first they are given.
    """
    if TYPE_CHECKING:
        from tensorrt import ILogger as Logger
    else:
        Logger = trt.ILogger  # noqa: N806
    failures = (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)

    class Collector(Logger):  # type: ignore[misc] # Any, without TensorRT
        def __init__(self) -> None:
            Logger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Logger.Severity, msg: str) -> None:
            if severity in failures:
                self.errors.append(msg)

    return Collector()


def complaints(trt: Library) -> str:
    """What the library has logged as errors since this was last asked, as one phrase."""
    logger = logger_of(trt)
    told = "; ".join(dict.fromkeys(logger.errors)) or "it does not say why"
    logger.errors.clear()
    return told
