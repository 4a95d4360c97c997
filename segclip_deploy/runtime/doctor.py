"""``doctor``: what is here, which engines can be built and run with it, and what to install."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from segclip_deploy import __version__
from segclip_deploy._optional import load, require
from segclip_deploy.artifacts.engine_record import CpuDevice
from segclip_deploy.errors import SegclipError
from segclip_deploy.runtime.io.sources.gstreamer_library import gstreamer_version
from segclip_deploy.runtime.registry import TARGETS
from segclip_deploy.runtime.targets.base import Target
from segclip_deploy.runtime.targets.device import (
    Gpu,
    Jetson,
    command_output,
    find_cpu,
    find_gpu,
    find_jetson,
    system_memory,
)

__all__ = ["JetsonState", "Machine", "Obstacle", "System", "TargetReport", "examine"]

T = TypeVar("T")

_PACKAGES = ("tensorrt", "tensorrt_rtx", "onnxruntime", "openvino", "pycuda", "cuda.bindings")


@dataclass(frozen=True)
class System:
    """This machine without its GPU.

    Attributes:
        python: version.
        platform: operating system and kernel.
        cpu: the processor.
        memory_free, memory: bytes; None where they are not told. A Jetson's GPU shares them.
        disk_free: bytes, where engines would be written.
    """

    python: str
    platform: str
    cpu: CpuDevice
    memory_free: int | None
    memory: int | None
    disk_free: int


@dataclass(frozen=True)
class JetsonState:
    """A Jetson.

    Attributes:
        jetson: what it is.
        power_mode: as nvpmodel tells; None where it does not.
        jetson_clocks: as jetson_clocks tells, to root alone.
    """

    jetson: Jetson
    power_mode: str | None
    jetson_clocks: str | None


@dataclass(frozen=True)
class Obstacle:
    """What is in the way of a target, and what removes it."""

    what: str
    fix: str | None


@dataclass(frozen=True)
class TargetReport:
    """Whether a target can be built and run here.

    Attributes:
        engine: the form of its files' names.
        devices: that ``--device`` may name.
        build, run: whether it can be.
        obstacles: in the way of either.
    """

    engine: str
    devices: tuple[str, ...]
    build: bool
    run: bool
    obstacles: tuple[Obstacle, ...]


@dataclass(frozen=True)
class Machine:
    """What is here, and what can be done with it.

    Attributes:
        version: of this package.
        system: without the GPU.
        gpu: of NVIDIA; None where there is none.
        board: a Jetson; None on other machines.
        packages: versions by name; None of what is not installed, and of a GStreamer that Python cannot load.
        onnxruntime_providers: of the ONNX Runtime that is installed.
        targets: by name.
    """

    version: str
    system: System
    gpu: Gpu | None
    board: JetsonState | None
    packages: Mapping[str, str | None]
    onnxruntime_providers: tuple[str, ...]
    targets: Mapping[str, TargetReport]

    def to_json(self) -> dict[str, Any]:
        """As JSON; the fields of processor and board stand beside those of what they are in."""
        system, board = self.system, self.board
        cpu = {name: value for name, value in system.cpu.to_json().items() if name != "kind"}
        return {
            "segclip_deploy": self.version,
            "system": {
                "python": system.python,
                "platform": system.platform,
                **cpu,
                "memory_free": system.memory_free,
                "memory": system.memory,
                "disk_free": system.disk_free,
            },
            "gpu": self.gpu and self.gpu.to_json(),
            "jetson": board
            and {
                **board.jetson.to_json(),
                "power_mode": board.power_mode,
                "jetson_clocks": board.jetson_clocks,
            },
            "packages": dict(self.packages),
            "onnxruntime_providers": list(self.onnxruntime_providers),
            "targets": {name: asdict(can) for name, can in self.targets.items()},
        }


def examine(folder: Path) -> Machine:
    """Look at this machine; nothing is changed and nothing is run but queries.

    Args:
        folder: where engines would be written, for its free space.
    """
    jetson = find_jetson()
    return Machine(
        version=__version__,
        system=System(
            python=platform.python_version(),
            platform=platform.platform(),
            cpu=find_cpu(),
            memory_free=system_memory("MemAvailable"),
            memory=system_memory("MemTotal"),
            disk_free=shutil.disk_usage(folder).free,
        ),
        gpu=_or_none(lambda: find_gpu(why="TensorRT")),
        board=None if jetson is None else _board(jetson),
        packages={name: _version(name) for name in _PACKAGES}
        | {"gstreamer": _or_none(gstreamer_version)},
        onnxruntime_providers=_providers(),
        targets={name: _report(target) for name, target in TARGETS.items()},
    )


def _board(jetson: Jetson) -> JetsonState:
    return JetsonState(
        jetson,
        power_mode=command_output("nvpmodel", "-q"),
        jetson_clocks=command_output("jetson_clocks", "--show"),  # tells root alone
    )


def _report(target: Target) -> TargetReport:
    building = target.obstacles(target.to_build())
    running = target.obstacles(target.to_run())
    return TargetReport(
        engine=f"NAME{target.suffix}",
        devices=tuple(target.devices),
        build=not building,
        run=not building and not running,
        obstacles=tuple(Obstacle(e.what, e.fix) for e in (*building, *running)),
    )


def _or_none(look: Callable[[], T]) -> T | None:
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


def _providers() -> tuple[str, ...]:
    ort = _or_none(lambda: require("onnxruntime", why="an engine for it"))
    return tuple(ort.get_available_providers()) if ort else ()
