"""``doctor``: what is here, which engines can be built and run with it, and what to install."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from segclip_deploy import __version__
from segclip_deploy._optional import load, require
from segclip_deploy.errors import SegclipError
from segclip_deploy.runtime.registry import TARGETS
from segclip_deploy.runtime.targets.device import command_output, find_cpu, find_gpu, find_jetson

__all__ = ["examine"]

_PACKAGES = ("tensorrt", "tensorrt_rtx", "onnxruntime", "openvino", "pycuda", "cuda.bindings")


def examine(folder: Path) -> dict[str, Any]:
    """Look at this machine; nothing is changed and nothing is run but queries.

    Args:
        folder: where engines would be written, for its free space.

    Returns:
        the facts by group (``system``, ``gpu``, ``jetson``, ``packages``), None for what is not
        here; under ``targets`` whether each can be built and run, and what is in the way.
    """
    jetson = find_jetson()
    return {
        "segclip_deploy": __version__,
        "system": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            **{name: value for name, value in find_cpu().to_json().items() if name != "kind"},
            "memory_free": _memory("MemAvailable"),
            "memory": _memory("MemTotal"),
            "disk_free": shutil.disk_usage(folder).free,
        },
        "gpu": _or_none(lambda: find_gpu(why="TensorRT").to_json()),
        "jetson": jetson
        and {
            **jetson.to_json(),
            "power_mode": command_output("nvpmodel", "-q"),
            "jetson_clocks": command_output("jetson_clocks", "--show"),  # tells root alone
        },
        "packages": {name: _version(name) for name in _PACKAGES},
        "onnxruntime_providers": _providers(),
        "targets": _targets(),
    }


def _targets() -> dict[str, dict[str, Any]]:
    """By target: whether it can be built and run, and per obstacle what removes it."""
    found = {}
    for name, target in TARGETS.items():
        building = target.obstacles(target.to_build())
        running = target.obstacles(target.to_run())
        found[name] = {
            "engine": f"NAME{target.suffix}",
            "devices": list(target.devices),
            "build": not building,
            "run": not building and not running,
            "obstacles": [
                {"what": error.what, "fix": error.fix} for error in (*building, *running)
            ],
        }
    return found


def _or_none(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except (SegclipError, ImportError):
        return None


def _version(module: str) -> str | None:
    """Of what can be imported: JetPack's TensorRT has no package metadata that pip would know."""
    try:
        loaded = load(module)
    except ImportError:
        return None
    try:
        told = getattr(loaded, "__version__", None) or version(module.replace(".", "-"))
        return str(told).partition("-")[0]
    except PackageNotFoundError:
        return "of unknown version"


def _providers() -> list[str]:
    ort = _or_none(lambda: require("onnxruntime", why="an engine for it"))
    return list(ort.get_available_providers()) if ort else []


def _memory(field: str) -> int | None:
    """Bytes, from /proc/meminfo; on a Jetson the GPU shares them."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) << 10 if found else None
