"""Ours against the defaults of modelopt, ONNX Runtime and NNCF: mIoU and latency of the same files.

    pip install nvidia-modelopt requests onnx_graphsurgeon onnxconverter-common polygraphy lief cppimport nncf
    python benchmarks/precision.py ../shared/data/dubai [--checkpoints A B] [--sizes 512 1024]

Calibrates on the train split, plans on `plan`, reads `val` once for each row. All tools get the
same tiles. Latency in OpenVINO: all files of a size in turn in one process, medians. What is
written for TensorRT is scored where ONNX Runtime executes it literally, and has no latency here.
Writes results/precision.json; files are kept in out/benchmarks/precision.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.accuracy import Accuracy, miou_drop, score
from segclip_deploy.artifacts import Bundle, InputSpec, load_bundle, write_json
from segclip_deploy.calibration.calibrate import calibrate
from segclip_deploy.calibration.graph import load_model, save_model
from segclip_deploy.calibration.plan import PrecisionPlan, load_plan, uniform_plan
from segclip_deploy.calibration.planner import make_plan
from segclip_deploy.calibration.quantize import quantize
from segclip_deploy.calibration.rounding import round_as_fp16
from segclip_deploy.calibration.search import Limits
from segclip_deploy.calibration.selection import TileSet, select_tiles
from segclip_deploy.calibration.table import CalibrationTable, load_table
from segclip_deploy.calibration.tiles import find_tiles
from segclip_deploy.dataset import Dataset, open_dataset
from segclip_deploy.errors import GateFailed, SegclipError
from segclip_deploy.export.export import export_bundle
from segclip_deploy.runtime.backends.base import Backend
from segclip_deploy.runtime.backends.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.backends.openvino import OpenVinoBackend
from segclip_deploy.runtime.segmenter import Segmenter
from segclip_deploy.runtime.tuning import WARM_UP, median_ms

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "out" / "benchmarks" / "precision"
TILES, THREADS, ROUNDS = 64, 2, 30
MODELOPT = ("max", "entropy")


@dataclass(frozen=True)
class Row:
    """A file and what runs it.

    Attributes:
        name: for the table.
        model: the ONNX file.
        target: "OpenVINO" or "ONNX Runtime, literally".
    """

    name: str
    model: Path
    target: str

    def open(self) -> Backend:
        """Load the file."""
        if self.target == "OpenVINO":
            return OpenVinoBackend(self.model, threads=THREADS)
        model = load_model(self.model)
        rounded = self.model.with_suffix(".rounded.onnx")
        if not round_as_fp16(model.graph):
            return OnnxRuntimeBackend(self.model, threads=THREADS, literal=True)
        save_model(model, rounded)
        backend = OnnxRuntimeBackend(rounded, threads=THREADS, literal=True)
        rounded.unlink()
        return backend


def ours(bundle: Bundle, table: CalibrationTable, data: Dataset, out: Path) -> list[Row]:
    """Uniform precisions and plans, both dialects."""
    graph = load_model(bundle.model_path).graph
    rows = []
    for dialect, target in (("cpu", "OpenVINO"), ("tensorrt", "ONNX Runtime, literally")):
        plans: dict[str, PrecisionPlan] = {
            f"ours, {dialect}, int8": uniform_plan(bundle, graph, dialect, "int8")
        }
        if dialect == "tensorrt":
            plans["ours, tensorrt, fp16"] = uniform_plan(bundle, graph, dialect, "fp16")
        planned = out / f"{dialect}.yaml"
        try:
            if not planned.exists():
                limits = Limits(0.003, {})
                make_plan(
                    bundle, table, data, planned, dialect=dialect, split="plan", limits=limits
                )
            plans[f"ours, {dialect}, planned"] = load_plan(planned)
        except GateFailed as error:
            print(f"no plan: {error}")
        for name, plan in plans.items():
            folder = out / name.replace(", ", "-")
            made = quantize(bundle, folder, plan=plan, table=table)
            rows.append(Row(name, made.model_path, target))
    return rows


def modelopt(
    bundle: Bundle, pixels: NDArray[np.uint8], out: Path, methods: Sequence[str] = MODELOPT
) -> list[Row]:
    """Its INT8 defaults, by calibrator."""
    from modelopt.onnx.quantization import quantize as run

    rows = []
    for method in methods:
        path = out / f"modelopt-{method}.onnx"
        if not path.exists():
            run(
                str(bundle.model_path),
                quantize_mode="int8",
                calibration_data={"image": pixels},
                calibration_method=method,
                calibration_eps=["cpu"],
                high_precision_dtype="fp32",
                output_path=str(path),
            )
        rows.append(Row(f"modelopt, {method}", path, "ONNX Runtime, literally"))
    return rows


def onnxruntime_static(bundle: Bundle, pixels: NDArray[np.uint8], out: Path) -> list[Row]:
    """quantize_static in U8 for OpenVINO, and in S8 as TensorRT reads it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as run
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(pixels)

        def get_next(self) -> dict[str, Any] | None:
            tile = next(self.left, None)
            return None if tile is None else {"image": tile[None]}

    symmetric = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "AddQDQPairToWeight": True,
        "QuantizeBias": False,
    }
    variants: dict[str, tuple[dict[str, Any], str]] = {
        # Of all operators OpenVINO refuses the file; these are what it fuses.
        "u8": (
            {
                "activation_type": QuantType.QUInt8,
                "op_types_to_quantize": ["Conv", "Clip", "Relu", "Add"],
            },
            "OpenVINO",
        ),
        "s8": (
            {"activation_type": QuantType.QInt8, "extra_options": symmetric},
            "ONNX Runtime, literally",
        ),
    }
    rows = []
    inferred = out / "inferred.onnx"
    quant_pre_process(str(bundle.model_path), str(inferred), skip_symbolic_shape=True)
    for name, (options, target) in variants.items():
        path = out / f"quantize_static-{name}.onnx"
        if not path.exists():
            run(
                str(inferred),
                str(path),
                Reader(),
                quant_format=QuantFormat.QDQ,
                weight_type=QuantType.QInt8,
                per_channel=True,
                **options,
            )
        rows.append(Row(f"quantize_static, {name}", path, target))
    return rows


def nncf(bundle: Bundle, pixels: NDArray[np.uint8], out: Path) -> list[Row]:
    """Its post-training defaults, on the OpenVINO model."""
    import nncf as tool
    import openvino as ov

    path = out / "nncf.xml"
    if not path.exists():
        model = ov.Core().read_model(str(bundle.model_path))
        tiles = tool.Dataset([tile[None] for tile in pixels])
        ov.save_model(
            tool.quantize(model, tiles, subset_size=len(pixels)), str(path), compress_to_fp16=False
        )
    return [Row("NNCF", path, "OpenVINO")]


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
            if row.target == "OpenVINO":
                opened[row.name] = row.open()
        except SegclipError as error:
            results[row.name]["failed"] = str(error)[:200]
            print(f"{row.name}: {error}"[:200], flush=True)
            continue
        drop = miou_drop(accuracy[rows[0].name], accuracy[row.name])
        scores = {"miou": accuracy[row.name].confusion.miou, "drop": asdict(drop)}
        results[row.name] |= scores
        print(f"{row.name}: mIoU {scores['miou']:.4f}, drop {100 * drop.value:+.2f}", flush=True)
    medians = median_ms(list(opened.values()), tile, rounds=ROUNDS)
    times = dict(zip(opened, medians, strict=True))
    for name, milliseconds in times.items():
        speed_up = times[rows[0].name] / milliseconds
        results[name] |= {"median_ms": milliseconds, "speed_up": speed_up}
        print(f"{name}: {milliseconds:.1f} ms, {speed_up:.2f}×", flush=True)
    return list(results.values())


def run(
    checkpoint: Path, size: int, root: Path, calibrators: Sequence[str]
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
    rows = [Row("FP32, folded", bundle.model_path, "OpenVINO")]
    rows += ours(bundle, load_table(table), data, out)
    tools: list[Callable[[Bundle, NDArray[np.uint8], Path], list[Row]]] = [
        partial(modelopt, methods=calibrators),
        onnxruntime_static,
        nncf,
    ]
    failed = []
    for tool in tools:
        try:
            rows += tool(bundle, pixels, out)
        except ValueError as error:  # a tool that cannot take this graph is a result, too
            name = getattr(tool, "__name__", "modelopt")
            failed.append({"name": name, "failed": str(error)[:200]})
            print(f"{name}: {error}"[:200], flush=True)
    results = measure(bundle, rows, data, pixels[0]) + failed
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
        "--result", type=Path, default=ROOT / "benchmarks/results/precision.json", help="To write."
    )
    parser.add_argument(
        "--modelopt",
        nargs="+",
        choices=MODELOPT,
        default=MODELOPT,
        help="Its calibrators; entropy once took over an hour.",
    )
    arguments = parser.parse_args()
    rows = []
    for checkpoint in arguments.checkpoints:
        for size in arguments.sizes:
            rows += run(checkpoint, size, arguments.data, arguments.modelopt)
            conditions = {
                "processor": platform.processor() or platform.machine(),
                "threads": THREADS,
                "tiles": TILES,
                "rounds": ROUNDS,
                "warm_up": WARM_UP,
                "load_average": os.getloadavg(),
                "python": platform.python_version(),
            }
            write_json(
                arguments.result,
                {"conditions": conditions, "rows": rows},
            )
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
