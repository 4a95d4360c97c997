"""What a TensorRT engine was built for, and in what this machine differs."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from segclip_deploy.artifacts.engine_record import GpuDevice
from segclip_deploy.runtime.targets.device import Gpu, find_jetson, power_mode
from segclip_deploy.runtime.targets.tensorrt.library import Library, library_name

__all__ = ["differences", "gpu_device", "slower_or_faster"]

_TITLES = {
    "gpu": "GPU",
    "board": "board",
    "multiprocessors": "number of multiprocessors",
    "compute_capability": "compute capability",
    "library": "library",
}
_AMPERE = (8, 0)


def gpu_device(trt: Library, gpu: Gpu | None, capabilities: Iterable[str]) -> GpuDevice:
    """The device of an engine's record.

    Args:
        gpu: None where the engine was built ahead of time.
        capabilities: compute capabilities it is for, as ``"8.6"``.
    """
    jetson = find_jetson()
    return GpuDevice(
        gpu=gpu.gpu if gpu else None,
        compute_capability=tuple(capabilities),
        driver=gpu.driver if gpu else None,
        cuda=gpu.cuda if gpu else None,
        library=library_name(trt),
        board=jetson.board if jetson else None,
        l4t=jetson.l4t if jetson else None,
        jetpack=jetson.jetpack if jetson else None,
        multiprocessors=gpu.multiprocessors if gpu else None,
        power_mode=power_mode() if gpu and jetson else None,
    )


def differences(built: GpuDevice, here: GpuDevice, arguments: Collection[str]) -> list[str]:
    """Where this machine is another than the engine can run on, one phrase each.

    Args:
        built: of the engine's record.
        here: this machine's, with one compute capability.
        arguments: of the build: compatibility that was asked for widens what passes.
    """
    (capability,) = here.compute_capability
    ampere = "ampere-plus" in arguments and _numbers(capability) >= _AMPERE
    # CUDA calls AGX Orin, Orin NX and Orin Nano all "Orin"; board and size tell them apart.
    anywhere = built.gpu is None or "--hardware-compatibility" in arguments
    passes = {
        "gpu": anywhere or built.gpu == here.gpu,
        "board": anywhere or built.board == here.board,
        "multiprocessors": anywhere or built.multiprocessors == here.multiprocessors,
        "compute_capability": capability in built.compute_capability or ampere,
        "library": built.library == here.library
        or ("--version-compatible" in arguments and _same_or_later(built.library, here.library)),
    }
    return [
        f"{_TITLES[field]} is {_told(getattr(here, field))} here, "
        f"{_told(getattr(built, field))} when it was built"
        for field, passed in passes.items()
        if not passed
    ]


def slower_or_faster(built: GpuDevice, here: GpuDevice) -> str | None:
    """Why an engine that runs here may not be as fast as when it was built; None: no reason."""
    modes = (here.power_mode, built.power_mode)
    if None in modes or modes[0] == modes[1]:
        return None
    return (
        f"power mode is {modes[0]} here, {modes[1]} when it was built: TensorRT chose its kernels "
        "by their times in that mode"
    )


def _same_or_later(built: str, here: str) -> bool:
    (name, old), (other, new) = (library.rsplit(" ", 1) for library in (built, here))
    before, now = _numbers(old), _numbers(new)
    return bool(name == other and before[0] == now[0] and before <= now)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _told(value: str | int | tuple[str, ...] | None) -> str:
    if value is None:
        return "not told"
    return ", ".join(value) if isinstance(value, tuple) else str(value)
