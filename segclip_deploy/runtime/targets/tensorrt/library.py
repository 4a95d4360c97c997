"""Which TensorRT: the module, its name and version, and what it complains of."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

from segclip_deploy._optional import install_command, require
from segclip_deploy.errors import MissingDependency
from segclip_deploy.runtime.targets.device import find_jetson

__all__ = ["MODULES", "complaints", "library_name", "load_cuda", "load_library", "logger_of"]

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Python module by target."""

_TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


def load_library(target: str) -> ModuleType:
    """The library of a target.

    Raises:
        MissingDependency: it is not installed, with the way this machine gets it.
    """
    module = MODULES[target]
    return _load(
        module,
        why=f"a {_TITLES[module]} engine",
        on_jetson="TensorRT comes with JetPack, not from pip: docs/jetson.md"
        if module == "tensorrt"
        else "there is no TensorRT-RTX for Jetson, build NAME.engine",
    )


def load_cuda() -> ModuleType:
    """PyCUDA's driver module.

    Raises:
        MissingDependency: it is not installed, or finds no driver.
    """
    return _load(
        "pycuda.driver",
        why="running an engine on the GPU",
        on_jetson=install_command("jetson"),
    )


def _load(module: str, *, why: str, on_jetson: str) -> ModuleType:
    try:
        return require(module, why=why)
    except MissingDependency as error:
        raise MissingDependency(
            error.what, fix=on_jetson if find_jetson() else error.fix
        ) from error
    except ImportError as error:  # installed, but a shared library it needs is not
        raise MissingDependency(
            f"{why} needs {module}, which is installed and cannot be loaded ({error})",
            fix="reinstall it for the CUDA that segclip-deploy doctor finds",
        ) from error


def library_name(trt: ModuleType) -> str:
    """Name and version, for example ``"TensorRT 10.3.0"``."""
    return f"{_TITLES[trt.__name__]} {trt.__version__}"


@cache
def logger_of(trt: ModuleType) -> Any:
    """The library's one logger: it keeps errors in ``logger.errors`` and prints nothing.

    One for the process: the libraries hold on to the first they are given.
    """

    class Collector(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity == trt.ILogger.ERROR:
                self.errors.append(message)

    return Collector()


def complaints(trt: ModuleType) -> str:
    """What the library has logged as errors since this was last asked, as one phrase."""
    logger = logger_of(trt)
    told = "; ".join(dict.fromkeys(logger.errors)) or "it does not say why"
    logger.errors.clear()
    return told
