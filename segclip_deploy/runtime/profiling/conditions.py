"""In what conditions something was measured; without them a figure is none."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from segclip_deploy import __version__
from segclip_deploy.artifacts.engine_record import CpuDevice
from segclip_deploy.artifacts.records import Record
from segclip_deploy.errors import SegclipError
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.profiling.kernel_files import kernel_number, kernel_text
from segclip_deploy.runtime.targets.device import (
    Gpu,
    Jetson,
    command_output,
    find_cpu,
    find_gpu,
    find_jetson,
    power_mode,
)

__all__ = ["DeviceConditions", "Memory", "device_conditions", "find_memory", "load_average"]

_ROOT = Path("/")


class DeviceConditions(Record, frozen=True):
    """A machine and the state it is in; None for what is not here, or does not tell.

    Attributes:
        cpu: the processor.
        gpu: the NVIDIA GPU.
        jetson: the board, where it is a Jetson.
        governor: that sets the clock of the first core.
        cpu_mhz: clock of the first core, at that moment.
        power_mode: as ``nvpmodel`` calls it.
        clocks: what ``jetson_clocks`` shows to root; to others it shows nothing.
        system: operating system and kernel.
        python: its version.
        segclip_deploy: the version of this package.
    """

    cpu: CpuDevice
    gpu: Gpu | None
    jetson: Jetson | None
    governor: str | None
    cpu_mhz: int | None
    power_mode: str | None
    clocks: str | None
    system: str
    python: str
    segclip_deploy: str

    @property
    def name(self) -> str:
        """What it is, for people: the board, else the GPU, else the processor."""
        board = self.jetson.board if self.jetson else None
        return board or (self.gpu.gpu if self.gpu else self.cpu.cpu)


class Memory(Record, frozen=True):
    """Bytes this process takes; None where the system does not tell.

    Attributes:
        resident: in memory now.
        peak: the most of it so far.
        gpu: taken on the GPU, by all processes; on a Jetson the same memory.
    """

    resident: int | None
    peak: int | None
    gpu: int | None


def device_conditions(root: Path = _ROOT) -> DeviceConditions:
    """Board, processor, GPU, power mode, clocks and versions of this machine.

    Args:
        root: of the file system.
    """
    try:
        gpu: Gpu | None = find_gpu(why="a profile", root=root)
    except SegclipError:
        gpu = None
    frequency = kernel_number(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    return DeviceConditions(
        cpu=find_cpu(root),
        gpu=gpu,
        jetson=find_jetson(root),
        governor=kernel_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        cpu_mhz=int(frequency) // 1000 if frequency else None,
        power_mode=power_mode(root),
        clocks=command_output("jetson_clocks", "--show"),
        system=platform.platform(),
        python=platform.python_version(),
        segclip_deploy=__version__,
    )


def load_average() -> float | None:
    """Processes that wanted the processor in the last minute, the mean."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def find_memory(backend: Backend, root: Path = _ROOT) -> Memory:
    """What this process takes, and its GPU where the backend runs on one."""
    status = kernel_text(root / "proc/self/status")
    fields = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE))
    resident, peak = (int(fields[k]) << 10 if k in fields else None for k in ("VmRSS", "VmHWM"))
    return Memory(resident=resident, peak=peak, gpu=backend.memory_taken())
