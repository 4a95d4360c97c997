"""What this machine is: the facts an engine depends on, read without any package."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.engine_record import CpuDevice
from segclip_deploy.artifacts.records import Record
from segclip_deploy.errors import GpuAbsent, MissingDependency

__all__ = [
    "Gpu",
    "Jetson",
    "PowerMode",
    "cache_folder",
    "command_output",
    "find_cpu",
    "find_gpu",
    "find_jetson",
    "has_gpu",
    "list_power_modes",
    "power_mode",
    "system_memory",
    "usable_cores",
]

_ROOT = Path("/")
_CPU_FLAGS = re.compile(
    r"avx2|avx512f|avx512_(vnni|bf16|fp16)|avx_vnni|amx_(tile|int8|bf16)|asimd(dp|hp)?|i8mm|bf16|sve2?"
)
_COMPUTE_CAPABILITY = (75, 76)  # CUdevice_attribute, major and minor
_MULTIPROCESSOR_COUNT = 16


class Gpu(Record, frozen=True):
    """An NVIDIA GPU and its driver.

    Attributes:
        gpu: its name.
        compute_capability: for example ``"8.7"``.
        driver: version of the kernel driver; None where it does not say.
        cuda: the newest CUDA the driver serves, for example ``"12.6"``.
        memory: bytes.
        multiprocessors: how many; boards of one name may have more or fewer. None in records of
            older versions.
    """

    gpu: str
    compute_capability: str
    driver: str | None
    cuda: str
    memory: int
    multiprocessors: int | None = None


class Jetson(Record, frozen=True):
    """An NVIDIA Jetson.

    Attributes:
        board: as the device tree says.
        l4t: release of Linux for Tegra, for example ``"36.4.3"``.
        jetpack: version of the package ``nvidia-jetpack``; None where it is not installed.
    """

    board: str | None
    l4t: str
    jetpack: str | None


class PowerMode(Record, frozen=True):
    """A power mode of a Jetson.

    Attributes:
        id: number that ``nvpmodel -m`` takes.
        name: as ``/etc/nvpmodel.conf`` says, for example ``"MODE_30W"``.
    """

    id: int
    name: str


def find_cpu(root: Path = _ROOT) -> CpuDevice:
    """The processor of this machine."""
    text = _read(root / "proc/cpuinfo") or ""
    entries = dict(re.findall(r"^([^\n:]+?)[ \t]*:[ \t]*(.*)$", text, re.MULTILINE))
    listed = (entries.get("flags") or entries.get("Features") or "").split()
    return CpuDevice(
        cpu=entries.get("model name") or platform.processor() or platform.machine(),
        machine=platform.machine(),
        cores=usable_cores(),
        flags=tuple(sorted(flag for flag in listed if _CPU_FLAGS.fullmatch(flag))),
    )


def find_gpu(*, why: str, driver: Any = None, root: Path = _ROOT) -> Gpu:
    """The first NVIDIA GPU, asked through the driver's own library.

    Args:
        why: what needs it, a phrase that completes "… needs an NVIDIA GPU".
        driver: the loaded ``libcuda``; None loads it.
        root: of the file system.

    Raises:
        MissingDependency: no driver.
        GpuAbsent: no GPU.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = driver or ctypes.CDLL(name)
    except OSError as error:
        raise MissingDependency(
            f"{why} needs an NVIDIA GPU, and no NVIDIA driver ({name}) is here",
            fix="run it on the machine with the GPU, or install NVIDIA's driver",
        ) from error
    code = cuda.cuInit(0)
    device = ctypes.c_int()
    code = code or cuda.cuDeviceGet(ctypes.byref(device), 0)
    if code:
        raise GpuAbsent(
            f"{why} needs an NVIDIA GPU, and the driver finds none (CUDA error {code})",
            fix="see what nvidia-smi says",
        )
    label, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    major, minor, count, version = (ctypes.c_int() for _ in range(4))
    codes = [
        cuda.cuDeviceGetName(label, len(label), device),
        cuda.cuDriverGetVersion(ctypes.byref(version)),
        cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
    ]
    attributes = (*_COMPUTE_CAPABILITY, _MULTIPROCESSOR_COUNT)
    for value, attribute in zip((major, minor, count), attributes, strict=True):
        codes.append(cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
    if any(codes):
        raise GpuAbsent(
            f"{why} needs an NVIDIA GPU, and the driver does not tell of it (CUDA error {max(codes)})",
            fix="see what nvidia-smi says",
        )
    return Gpu(
        gpu=label.value.decode(),
        compute_capability=f"{major.value}.{minor.value}",
        driver=_kernel_driver(root),
        cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
        memory=memory.value,
        multiprocessors=count.value or None,
    )


def has_gpu() -> bool:
    """Whether ``find_gpu`` finds one."""
    try:
        find_gpu(why="this")
    except MissingDependency:
        return False
    return True


def find_jetson(root: Path = _ROOT) -> Jetson | None:
    """The Jetson this is, or None."""
    release = _read(root / "etc/nv_tegra_release")
    found = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", release or "")
    if not found:
        return None
    board = _read(root / "proc/device-tree/model")
    jetpack = command_output("dpkg-query", "-W", "-f", "${Version}", "nvidia-jetpack")
    return Jetson(board.rstrip("\0\n") if board else None, f"{found[1]}.{found[2]}", jetpack)


def power_mode(root: Path = _ROOT) -> str | None:
    """A Jetson's power mode, as ``nvpmodel`` calls it: ``"MAXN"``, ``"30W"``; None elsewhere.

    ``nvpmodel -q`` tells it; where that is absent, as in a container, the two files of nvpmodel do:
    the state that it keeps (``pmode:0002``), and the list of modes.

    Args:
        root: of the file system; of another than this machine's only the files are read.
    """
    told = command_output("nvpmodel", "-q") if root == _ROOT else None
    found = re.search(r"Power Mode:\s*(\S+)", told or "")
    if found:
        return found[1]
    kept = re.search(r"pmode:(\d+)", _read(root / "var/lib/nvpmodel/status") or "")
    names = {mode.id: mode.name for mode in list_power_modes(root)}
    return names.get(int(kept[1])) if kept else None


def list_power_modes(root: Path = _ROOT) -> tuple[PowerMode, ...]:
    """The modes of this Jetson, in the order of ``/etc/nvpmodel.conf``; none elsewhere.

    A mode is a line ``< POWER_MODEL ID=2 NAME=MODE_30W >``: Jetson Linux Developer Guide r36.3,
    "Jetson Orin Nano Series, Jetson Orin NX Series and Jetson AGX Orin Series", "Power Mode Controls".
    """
    text = _read(root / "etc/nvpmodel.conf") or ""
    found = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", text, re.MULTILINE)
    return tuple(PowerMode(id=int(number), name=name) for number, name in found)


def cache_folder() -> Path:
    """Where this user's caches of ours lie; it may not exist. On Linux below ``XDG_CACHE_HOME``."""
    from platformdirs import user_cache_path  # imported at use: --help needs no cache

    return user_cache_path("segclip-deploy", appauthor=False)


def usable_cores() -> int:
    """Cores this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def system_memory(field: str) -> int | None:
    """Bytes of a field of /proc/meminfo, as ``"MemAvailable"``; on a Jetson the GPU shares them."""
    text = _read(_ROOT / "proc" / "meminfo") or ""
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) << 10 if found else None


def command_output(*command: str) -> str | None:
    """What a command prints; None where it is absent or fails."""
    if not shutil.which(command[0]):
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _kernel_driver(root: Path) -> str | None:
    found = re.search(
        r"Module.*?\s(\d+\.\d[\d.]*)", _read(root / "proc/driver/nvidia/version") or ""
    )
    return found[1] if found else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
