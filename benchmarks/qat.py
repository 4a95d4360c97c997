"""Does fine-tuning under fake quantization beat quantizing after training? Paired mIoU on val.

    python benchmarks/qat.py ../shared/data/dubai [--steps 150]

Fine-tunes the example model for uniform INT8, then takes it and its parent through export,
calibrate (the tiles of precision.py) and quantize alike. Needs what precision.py has left in
out/benchmarks/precision. `val` is read once for each row.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from precision import OUT as PRECISION
from precision import TARGETS, TILES, Row, chosen
from record import ROOT, record

from segclip_deploy.artifacts.bundle import Bundle, InputSpec, load_bundle
from segclip_deploy.artifacts.checkpoint_record import TrainSettings
from segclip_deploy.artifacts.plan import save_plan
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.calibration.table import CalibrationTable, load_table
from segclip_deploy.evaluation.accuracy import Accuracy, miou_drop, score
from segclip_deploy.evaluation.dataset import Dataset, open_dataset
from segclip_deploy.export.export import export_bundle
from segclip_deploy.export.onnx_model import load_model
from segclip_deploy.model.checkpoint import load_checkpoint
from segclip_deploy.quantization.from_tiles import calibrate
from segclip_deploy.quantization.placement import uniform_plan
from segclip_deploy.quantization.quantize import quantize
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.training.qat import FINE_TUNING, fine_tune

PARENT = ROOT / "examples/dubai/model.safetensors"
OUT = ROOT / "out" / "benchmarks" / "qat"


def fine_tuned(parent: Bundle, data: Dataset, steps: int) -> Path:
    """The fine-tuned checkpoint; a run that was killed goes on."""
    out = OUT / f"model-{steps}.safetensors"
    if not out.exists() or out.with_name(out.name + ".resume").exists():
        plan = uniform_plan(parent, load_model(parent.model_path).graph, Scheme.TENSORRT, "int8")
        save_plan(OUT / "int8.yaml", plan)
        settings = TrainSettings(steps=steps, **FINE_TUNING)
        bank = load_checkpoint(PARENT).bank
        fine_tune(PARENT, OUT / "int8.yaml", data, bank, settings, out, report=print)
    return out


def exported(checkpoint: Path, root: Path) -> tuple[Bundle, CalibrationTable]:
    """Bundle and table of a checkpoint, as precision.py makes them."""
    folder = OUT / checkpoint.stem
    if not (folder / "fp32").is_dir():
        export_bundle(checkpoint, folder / "fp32", spec=InputSpec(512, 512))
    bundle, table = load_bundle(folder / "fp32"), folder / "table.json"
    if not table.exists():
        calibrate(bundle, chosen(bundle, root), table, method="percentile")
    return bundle, load_table(table)


def rows_of(kind: str, bundle: Bundle, table: CalibrationTable) -> list[Row]:
    """FP32 and uniform INT8 in both schemes."""
    graph = load_model(bundle.model_path).graph
    rows = [Row(f"{kind}, fp32", bundle.model_path, "OpenVINO", "f32")]
    for scheme, target in TARGETS.items():
        plan = uniform_plan(bundle, graph, scheme, "int8")
        made = quantize(bundle, OUT / f"{kind}-{scheme.value}", plan=plan, table=table)
        rows.append(Row(f"{kind}, {scheme.value}, int8", made.model_path, target))
    return rows


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--ptq", type=Path, default=PRECISION / "model-512", help="of the parent")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    parent = load_bundle(arguments.ptq / "fp32")
    data = open_dataset(arguments.data, parent.vocabulary)
    checkpoint = fine_tuned(parent, data, arguments.steps)
    rows = rows_of("PTQ", parent, load_table(arguments.ptq / "table.json"))
    rows += rows_of("QAT", *exported(checkpoint, arguments.data))
    scores: dict[str, Accuracy] = {}
    results: list[dict[str, Any]] = []
    for row in rows:
        with Segmenter(row.open(), parent.input, parent.vocabulary) as segmenter:
            scores[row.name] = score(segmenter, data.samples("val"))
        drop = miou_drop(scores[rows[0].name], scores[row.name])
        miou = scores[row.name].confusion.miou
        results.append({**asdict(row), "model": row.model.parent.name, "miou": miou})
        results[-1]["drop"] = drop.to_json()
        print(f"| {row.name} | {miou:.4f} | {drop.delta} {drop.delta_interval} |", flush=True)
    training = load_checkpoint(checkpoint).training
    record(
        "qat",
        results,
        size=512,
        tiles=TILES,
        kept_at_step=training.step,
        training_seconds=training.seconds,
        settings=training.settings.to_json(),
    )


if __name__ == "__main__":
    main()
