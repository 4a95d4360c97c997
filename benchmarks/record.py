"""Where figures go: a folder for each device, a file for each benchmark, its conditions in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.files import write_json
from segclip_deploy.artifacts.plan import Drop
from segclip_deploy.runtime.profiling.conditions import device_conditions, load_average
from segclip_deploy.runtime.targets.device import find_cpu

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_DECIDING = ("avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "i8mm", "bf16")
"""Flags that change how fast INT8 and BF16 are; one model name may stand for several processors."""


def cpu_name() -> str:
    """The processor and its deciding flags, as a folder's name."""
    cpu = find_cpu()
    flags = [flag for flag in _DECIDING if flag in cpu.flags] or list(cpu.flags[:1])
    return re.sub(r"[^a-z0-9]+", "-", f"{cpu.cpu} {' '.join(flags)}".lower()).strip("-")


def record_path(name: str, device: str | None = None) -> Path:
    """The file of a benchmark's figures on a device, this processor by default."""
    path = RESULTS / (device or cpu_name()) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def record(name: str, rows: Sequence[Any], *, device: str | None = None, **conditions: Any) -> Path:
    """Write a benchmark's rows beside what they were measured on and how; returns the file."""
    path = record_path(name, device)
    conditions = {**device_conditions().to_json(), "load_at_end": load_average(), **conditions}
    write_json(path, {"conditions": conditions, "rows": list(rows)})
    return path


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as the documents have it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def delta_miou(drop: Mapping[str, float]) -> str:
    """ΔmIoU in points, this − FP32, with the bounds of resampling the images."""
    known = Drop(**drop)
    return f"{known.delta} {known.delta_interval}"
