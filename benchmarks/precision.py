"""Ours against the defaults of modelopt, ONNX Runtime and NNCF: mIoU and latency of the same files.

    python benchmarks/precision.py ../shared/data/dubai [--checkpoints A B] [--sizes 512 1024]

Needs requirements.txt. Calibrates on the train split, plans on `plan`, reads `val` once for each
row. All tools get the same tiles. Latency in OpenVINO: all files of a size in turn in one process,
medians; what a file leaves in floating point runs in BF16 where the processor has it, but for the
FP32 that all is compared with. What is written for TensorRT is scored where ONNX Runtime executes it
in the reference run, and has no latency here. Files are kept in out/benchmarks/precision.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import ROOT, delta_miou, markdown, record
from tools import modelopt, nncf, quantize_static

from segclip_deploy.artifacts.bundle import Bundle, InputSpec, load_bundle
from segclip_deploy.artifacts.plan import AccuracyLimits, PrecisionPlan, load_plan
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.calibration.selection import TileSet, select_tiles
from segclip_deploy.calibration.table import CalibrationTable, load_table
from segclip_deploy.calibration.tiles import find_tiles
from segclip_deploy.errors import GateFailed, SegclipError
from segclip_deploy.evaluation.accuracy import Accuracy, miou_drop, score
from segclip_deploy.evaluation.dataset import Dataset, open_dataset
from segclip_deploy.export.export import export_bundle
from segclip_deploy.export.onnx_model import load_model, save_model
from segclip_deploy.planning.planner import plan_precision
from segclip_deploy.quantization.fp16_emulation import round_as_fp16
from segclip_deploy.quantization.from_tiles import calibrate
from segclip_deploy.quantization.placement import uniform_plan
from segclip_deploy.quantization.quantize import quantize
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.targets.openvino import OpenVinoBackend, precisions
from segclip_deploy.runtime.targets.tuning import WARM_UP, median_ms

OUT = ROOT / "out" / "benchmarks" / "precision"
OPENVINO, REFERENCE = "OpenVINO", "ONNX Runtime, reference run"
TARGETS: Mapping[Scheme, str] = {Scheme.CPU: OPENVINO, Scheme.TENSORRT: REFERENCE}
TILES, THREADS, ROUNDS = 64, 2, 30
MODELOPT = ("max", "entropy")


@dataclass(frozen=True)
class Row:
    """A file and what runs it.

    Attributes:
        name: for the table.
        model: the ONNX file.
        target: ``OPENVINO`` or ``REFERENCE``.
        precision: of what the file leaves in floating point, in OpenVINO; None: the lowest there is.
        threads: that run it.
    """

    name: str
    model: Path
    target: str
    precision: str | None = None
    threads: int = THREADS

    def open(self) -> Backend:
        """Load the file."""
        if self.target == OPENVINO:
            precision = self.precision or precisions()[-1]
            return OpenVinoBackend(self.model, threads=self.threads, precision=precision)
        model = load_model(self.model)
        rounded = self.model.with_suffix(".rounded.onnx")
        if not round_as_fp16(model.graph):
            return OnnxRuntimeBackend(self.model, threads=self.threads, reference=True)
        save_model(model, rounded)
        backend = OnnxRuntimeBackend(rounded, threads=self.threads, reference=True)
        rounded.unlink()
        return backend


def ours(
    bundle: Bundle,
    table: CalibrationTable,
    data: Dataset,
    out: Path,
    targets: Mapping[Scheme, str],
) -> list[Row]:
    """Uniform precisions and plans, in each scheme."""
    graph = load_model(bundle.model_path).graph
    rows = []
    for scheme, target in targets.items():
        plans: dict[str, PrecisionPlan] = {
            f"ours, {scheme.value}, int8": uniform_plan(bundle, graph, scheme, "int8")
        }
        if scheme is Scheme.TENSORRT:
            plans["ours, tensorrt, fp16"] = uniform_plan(bundle, graph, scheme, "fp16")
        planned = out / f"{scheme.value}.yaml"
        try:
            if not planned.exists():
                limits = AccuracyLimits(0.003)
                plan_precision(
                    bundle, table, data, planned, scheme=scheme, split="plan", limits=limits
                )
            plans[f"ours, {scheme.value}, planned"] = load_plan(planned)
        except GateFailed as error:
            print(f"no plan: {error}")
        for name, plan in plans.items():
            folder = out / name.replace(", ", "-")
            made = quantize(bundle, folder, plan=plan, table=table)
            rows.append(Row(name, made.model_path, target))
    return rows


def theirs(
    bundle: Bundle,
    pixels: NDArray[np.uint8],
    out: Path,
    calibrators: Sequence[str],
    targets: Collection[str],
) -> tuple[list[Row], list[dict[str, Any]]]:
    """The other tools' defaults on the folded model, and which of them could not."""
    jobs = [
        *(
            (f"modelopt, {m}", f"modelopt-{m}.onnx", REFERENCE, partial(modelopt, method=m))
            for m in calibrators
        ),
        ("quantize_static, u8", "static-u8.onnx", OPENVINO, partial(quantize_static, options="u8")),
        (
            "quantize_static, s8",
            "static-s8.onnx",
            REFERENCE,
            partial(quantize_static, options="s8"),
        ),
        ("NNCF", "nncf.xml", OPENVINO, nncf),
    ]
    rows, failed = [], []
    for name, file, target, run in jobs:
        if target not in targets:
            continue
        try:
            run(bundle.model_path, pixels, out / file)
            rows.append(Row(name, out / file, target))
        except ValueError as error:  # a tool that cannot take this graph is a result, too
            failed.append({"name": name, "failed": str(error)[:200]})
            print(f"{name}: {error}"[:200], flush=True)
    return rows, failed


def chosen(bundle: Bundle, data: Path) -> TileSet:
    """The tiles that every tool calibrates on."""
    return select_tiles(find_tiles([data], bundle.input, exclude=data), TILES)


def measure(
    bundle: Bundle, rows: list[Row], data: Dataset, tile: NDArray[np.uint8]
) -> list[dict[str, Any]]:
    """MIoU of each row on val, and latency of what runs in OpenVINO; files that fail say why."""
    opened: dict[str, Backend] = {}
    results: dict[str, dict[str, Any]] = {}
    accuracy: dict[str, Accuracy] = {}
    for row in rows:
        results[row.name] = {"name": row.name, "target": row.target}
        try:
            backend = row.open()
            with Segmenter(backend, bundle.input, bundle.vocabulary) as segmenter:
                accuracy[row.name] = score(segmenter, data.samples("val"))
            if row.target == OPENVINO:
                opened[row.name] = row.open()
        except SegclipError as error:
            results[row.name]["failed"] = str(error)[:200]
            print(f"{row.name}: {error}"[:200], flush=True)
            continue
        drop = miou_drop(accuracy[rows[0].name], accuracy[row.name])
        scores = {"miou": accuracy[row.name].confusion.miou, "drop": drop.to_json()}
        results[row.name] |= scores
        print(f"{row.name}: mIoU {scores['miou']:.4f}, ΔmIoU {drop.delta}", flush=True)
    medians = median_ms(list(opened.values()), tile, rounds=ROUNDS)
    times = dict(zip(opened, medians, strict=True))
    for name, milliseconds in times.items():
        speed_up = times[rows[0].name] / milliseconds
        results[name] |= {"median_ms": milliseconds, "speed_up": speed_up}
        print(f"{name}: {milliseconds:.1f} ms, {speed_up:.2f}×", flush=True)
    return list(results.values())


def run(
    checkpoint: Path,
    size: int,
    root: Path,
    calibrators: Sequence[str],
    targets: Mapping[Scheme, str],
) -> list[dict[str, Any]]:
    """All rows of a checkpoint at an input size."""
    out = OUT / f"{checkpoint.stem}-{size}"
    if not (out / "fp32").is_dir():
        export_bundle(checkpoint, out / "fp32", spec=InputSpec(size, size))
    bundle = load_bundle(out / "fp32")
    data = open_dataset(root, bundle.vocabulary)
    tiles = chosen(bundle, root)
    pixels = np.stack([tile for _, tile in tiles])
    table = out / "table.json"
    if not table.exists():
        calibrate(bundle, tiles, table, method="percentile")
    rows = [Row("FP32, folded", bundle.model_path, OPENVINO, "f32")]
    if precisions()[-1] != "f32":
        rows.append(Row("FP32, folded, run in BF16", bundle.model_path, OPENVINO))
    rows += ours(bundle, load_table(table), data, out, targets)
    others, failed = theirs(bundle, pixels, out, calibrators, targets.values())
    results = measure(bundle, rows + others, data, pixels[0]) + failed
    return [{"checkpoint": checkpoint.stem, "size": size, **result} for result in results]


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--checkpoints",
        type=Path,
        nargs="+",
        default=[ROOT / "examples/dubai/model.safetensors"],
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    parser.add_argument(
        "--modelopt",
        nargs="+",
        choices=MODELOPT,
        default=MODELOPT,
        help="Its calibrators; entropy once took over an hour.",
    )
    parser.add_argument(
        "--schemes",
        nargs="+",
        choices=[scheme.value for scheme in Scheme],
        default=[scheme.value for scheme in Scheme],
        help="Ours, and the other tools' files for the same.",
    )
    arguments = parser.parse_args()
    targets = {Scheme(name): TARGETS[Scheme(name)] for name in arguments.schemes}
    rows = []
    for checkpoint in arguments.checkpoints:
        for size in arguments.sizes:
            rows += run(checkpoint, size, arguments.data, arguments.modelopt, targets)
            conditions = {"threads": THREADS, "tiles": TILES, "rounds": ROUNDS, "warm_up": WARM_UP}
            record("precision", rows, **conditions)
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    cells = [
        [
            f"{row['checkpoint']}, {row['size']}²",
            row["name"],
            row["failed"] if "failed" in row else delta_miou(row["drop"]),
            f"{row['median_ms']:.1f}" if "median_ms" in row else "–",
            f"{row['speed_up']:.2f}×" if "median_ms" in row else "–",
        ]
        for row in rows
    ]
    header = ["checkpoint, window", "file", "ΔmIoU, points [95 %]", "ms", "FP32"]
    return markdown(header, cells)


if __name__ == "__main__":
    main()
