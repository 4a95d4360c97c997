"""What a TensorRT engine was built for, and in what this machine differs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

from segclip_deploy.runtime.targets.device import Gpu, find_jetson
from segclip_deploy.runtime.targets.tensorrt.library import library_name

__all__ = ["device_record", "differences"]

_TITLES = {"gpu": "GPU", "compute_capability": "compute capability", "library": "library"}
_AMPERE = (8, 0)


def device_record(
    trt: ModuleType, gpu: Gpu | None, capabilities: Collection[str]
) -> dict[str, Any]:
    """The device fields of a sidecar.

    Args:
        gpu: None where the engine was built ahead of time.
        capabilities: compute capabilities it is for, as ``"8.6"``.
    """
    jetson = find_jetson()
    return {
        "gpu": gpu and gpu.gpu,
        "compute_capability": list(capabilities),
        "driver": gpu and gpu.driver,
        "cuda": gpu and gpu.cuda,
        "library": library_name(trt),
        "board": jetson and jetson.board,
        "l4t": jetson and jetson.l4t,
        "jetpack": jetson and jetson.jetpack,
    }


def differences(
    built: Mapping[str, Any], here: Mapping[str, Any], arguments: Collection[str]
) -> list[str]:
    """Where this machine is another than the engine can run on, one phrase each.

    Args:
        built: the sidecar's device fields.
        here: this machine's, with one compute capability.
        arguments: of the build: compatibility that was asked for widens what passes.
    """
    (capability,) = here["compute_capability"]
    ampere = "ampere-plus" in arguments and _numbers(capability) >= _AMPERE
    passes = {
        "gpu": built["gpu"] in (None, here["gpu"]) or "--hardware-compatibility" in arguments,
        "compute_capability": capability in built["compute_capability"] or ampere,
        "library": built["library"] == here["library"]
        or ("--version-compatible" in arguments and _same_or_later(built, here)),
    }
    return [
        f"{_TITLES[field]} is {_told(here[field])} here, {_told(built[field])} when it was built"
        for field, passed in passes.items()
        if not passed
    ]


def _same_or_later(built: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    (name, old), (other, new) = (side["library"].rsplit(" ", 1) for side in (built, here))
    before, now = _numbers(old), _numbers(new)
    return bool(name == other and before[0] == now[0] and before <= now)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _told(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
