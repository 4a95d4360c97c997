"""Folders of results, as ``benchmark`` would have written them on boards that are not here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segclip_deploy.artifacts.engine_record import CpuDevice
from segclip_deploy.artifacts.plan import Drop
from segclip_deploy.runtime.profiling.conditions import DeviceConditions
from segclip_deploy.runtime.targets.device import Gpu, Jetson
from segclip_deploy.tradeoff.results import ResultsRecord, SweepConditions, write_results
from segclip_deploy.tradeoff.row import Row

BUNDLES = {"fp32": "a" * 64, "fp16": "b" * 64, "int8": "c" * 64}
"""Digests of one FP32 bundle, and of what was quantized from it."""

SCORED = "d" * 64
"""What every row is scored on."""


def device(board: str | None = None, **changes: Any) -> DeviceConditions:
    """A Jetson called ``board``, or a workstation without a GPU; ``changes`` are what differs."""
    cpu = CpuDevice(cpu="Cortex-A78AE" if board else "AMD EPYC", machine="x", cores=8, flags=())
    values: dict[str, Any] = {
        "cpu": cpu,
        "gpu": Gpu("Orin", "8.7", None, "12.6", 2**35) if board else None,
        "jetson": Jetson(board, "36.4.3", "6.2") if board else None,
        "governor": "schedutil",
        "cpu_mhz": 2200,
        "power_mode": "MAXN" if board else None,
        "clocks": None,
        "system": "Linux",
        "python": "3.10.12",
        "segclip_deploy": "0.5.0",
    }
    return DeviceConditions(**values | changes)


def conditions(on: DeviceConditions, **changes: Any) -> SweepConditions:
    """Of a sweep on seven images, timed on three frames."""
    values: dict[str, Any] = {
        "made": "2026-11-29 08:00",
        "device": on,
        "load": 1.0,
        "dataset": "/data/dubai",
        "split": "val",
        "plan_split": "plan",
        "images": 7,
        "frame_folder": None,
        "frames": 3,
        "frame_sizes": ((1479, 2149), (2061, 1817)),
        "samples": 30,
        "warm_up": 2,
        "points": 3,
    }
    return SweepConditions(**values | changes)


def sweep_row(precision: str, ms: float, miou: float, **changes: Any) -> Row:
    """A row of bundle ``dubai`` on TensorRT whose frames take about ``ms``, steadily."""
    spread = 1 + 0.02 * np.sin(np.arange(30))
    values: dict[str, Any] = {
        "name": f"dubai · trt · {precision}",
        "reference": "dubai · trt · fp32",
        "target": "tensorrt",
        "window": (1024, 1024),
        "batch": 1,
        "overlap": 256,
        "threads": 0,
        "bytes": 10**7,
        "sha256": "0" * 64,
        "bundle_sha256": BUNDLES.get(precision),
        "ground_truth_sha256": SCORED,
        "drop": Drop(0.72 - miou, 0.715 - miou, 0.725 - miou),
        "iou": {"land": miou},
        "areas": {"land": 0.0},
        "frame_ms": tuple(float(ms * one) for one in spread),
        "windows": 6.0,
        "pixel_ratio": 1.3,
        "stages": {"prepare": 1.0, "infer": 0.8 * ms, "postprocess": 0.5},
        "backend": "TensorRT 10.3.0",
        "joules": None,
    }
    return Row(**{"precision": precision, "miou": miou} | values | changes)


def sweep_folder(
    folder: Path, measured_in: SweepConditions, rows: Sequence[Row], **changes: Any
) -> Path:
    """Write the results of a sweep into a folder; ``changes`` are of its ``ResultsRecord``."""
    values: dict[str, Any] = {
        "recommended": rows[-1].name if rows else None,
        "why": "the fastest",
        "failures": (),
        "engines": {row.name: f"work/engines/{index}.engine" for index, row in enumerate(rows)},
        "bounds": (),
        "flight": None,
        "mission": (),
    }
    folder.mkdir(parents=True)
    write_results(
        folder, ResultsRecord(conditions=measured_in, rows=tuple(rows), **values | changes)
    )
    return folder
