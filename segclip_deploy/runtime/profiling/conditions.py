"""In what conditions something was measured; without them a figure is none."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segclip_deploy import __version__
from segclip_deploy.errors import SegclipError
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.targets.device import command_output, find_cpu, find_gpu, find_jetson

__all__ = ["Memory", "device_conditions", "find_memory", "load_average", "unlike"]

_ROOT = Path("/")

_COMPARED = (
    "cpu",
    "cores",
    "gpu",
    "driver",
    "board",
    "l4t",
    "power_mode",
    "governor",
    "engine",
    "threads",
    "window",
    "batch",
    "overlap",
    "frames",
)
"""What must be alike before two profiles may be compared."""


@dataclass(frozen=True)
class Memory:
    """Bytes this process takes; None where the system does not tell.

    Attributes:
        resident: now.
        peak: so far.
        gpu: taken on the GPU, by all processes; on a Jetson the same memory.
    """

    resident: int | None
    peak: int | None
    gpu: int | None


def device_conditions(root: Path = _ROOT) -> dict[str, Any]:
    """Board, processor, GPU, power mode, clocks and versions; None for what is not here.

    ``jetson_clocks`` tells root alone.
    """
    jetson, cpu = find_jetson(root), find_cpu(root)
    try:
        gpu: dict[str, Any] = asdict(find_gpu(why="a profile", root=root))
    except SegclipError:
        gpu = {"gpu": None, "driver": None}
    frequency = _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    return {
        "cpu": cpu.cpu,
        "cores": cpu.cores,
        "flags": list(cpu.flags),
        "governor": _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "cpu_mhz": int(frequency) // 1000 if frequency else None,
        **gpu,
        "board": jetson.board if jetson else None,
        "l4t": jetson.l4t if jetson else None,
        "jetpack": jetson.jetpack if jetson else None,
        "power_mode": _power_mode(command_output("nvpmodel", "-q")),
        "clocks": command_output("jetson_clocks", "--show"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "segclip_deploy": __version__,
    }


def load_average() -> float | None:
    """Processes that wanted the processor in the last minute, the mean."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def find_memory(backend: Backend, root: Path = _ROOT) -> Memory:
    """What this process takes, and its GPU where the backend runs on one."""
    status = _read(root / "proc/self/status") or ""
    fields = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE))
    resident, peak = (int(fields[k]) << 10 if k in fields else None for k in ("VmRSS", "VmHWM"))
    return Memory(resident, peak, backend.memory_taken())


def unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs between two conditions and makes a comparison meaningless, in words."""
    return [
        f"{key.replace('_', ' ')} is {one.get(key)} and {other.get(key)}"
        for key in _COMPARED
        if one.get(key) != other.get(key)
    ]


def _power_mode(told: str | None) -> str | None:
    found = re.search(r"Power Mode:\s*(\S+)", told or "")
    return found[1] if found else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
