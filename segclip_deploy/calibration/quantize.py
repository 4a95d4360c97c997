"""``quantize``: an FP32 bundle and a plan become a bundle with its precision written in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts import (
    BUNDLE_FILES,
    GOLDEN_FILE,
    MODEL_FILE,
    RECORD_FILE,
    Bundle,
    load_bundle,
    replace_directory,
    sha256_file,
    write_json,
)
from segclip_deploy.calibration.graph import check_fp32, expose, load_model, observer, save_model
from segclip_deploy.calibration.half import islands, overflow_islands, write_fp16
from segclip_deploy.calibration.placement import place
from segclip_deploy.calibration.plan import PrecisionPlan, lowest
from segclip_deploy.calibration.qdq import write_qdq
from segclip_deploy.calibration.table import CalibrationTable
from segclip_deploy.errors import BadInput, GateFailed
from segclip_deploy.export.parity import answers_of
from segclip_deploy.runtime.backends.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.golden import Golden, load_golden, save_golden
from segclip_deploy.runtime.verify import check, verify

__all__ = ["Written", "quantize", "sqnr", "write_precision"]

_TOOLS = ("onnx", "onnx_ir", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Written:
    """What was done to a graph.

    Attributes:
        int8: nodes that multiply in INT8.
        islands: nodes that stay FP32 in FP16 blocks, and why.
    """

    int8: frozenset[str]
    islands: Mapping[str, str]


def write_precision(
    model: Any,
    plan: PrecisionPlan,
    table: CalibrationTable | None,
    extremes: Mapping[str, tuple[float, str]],
) -> Written:
    """Write a plan into an FP32 model, in place.

    Args:
        model: an ``onnx_ir.Model``.
        plan: for this model.
        table: ranges; needed where the plan has INT8.
        extremes: tensor → (largest magnitude, tile), for what would overflow FP16.

    Raises:
        BadInput: INT8 without a table.
    """
    graph = model.graph
    placement = place(graph, plan.dialect, plan.int8)
    high = {
        **islands(graph, plan.fp16),
        **overflow_islands(graph, extremes, plan.fp16),
    }
    half = {node.name for node in graph if plan.fp16(node.name)} - set(high)
    if placement.weights:
        if table is None:
            raise BadInput(
                "INT8 needs a calibration table",
                where="--table",
                fix="segclip-deploy calibrate BUNDLE --tiles DIR -o TABLE",
            )
        write_qdq(graph, placement, table.ranges, plan.dialect)
    if half:
        write_fp16(graph, half.__contains__)
    return Written(placement.nodes, high)


def quantize(
    bundle: Bundle,
    out: Path,
    *,
    plan: PrecisionPlan,
    table: CalibrationTable | None,
) -> Bundle:
    """Write a plan's precision into a bundle, and prove the result before it counts.

    The file is executed literally by ONNX Runtime on the golden tiles: its logits must be
    finite, and its labels become the reference that every engine built from it is held to.

    Args:
        bundle: in FP32.
        out: the bundle directory; an older bundle there is replaced.
        plan: for this bundle.
        table: measured in this bundle; needed where the plan has INT8.

    Raises:
        BadArtifact: the bundle is not FP32.
        BadInput: INT8 without a table.
        GateFailed: the result is not finite, or ONNX Runtime's fast kernels disagree with the
            literal execution; nothing is written.
    """
    check_fp32(bundle)
    precision = lowest(plan)
    golden = load_golden(bundle.golden_path)
    model = load_model(bundle.model_path)
    expose(model, "logits")
    extremes = _extremes(bundle, golden.tiles) if plan.dialect == "tensorrt" else {}
    written = write_precision(model, plan, table, extremes)
    with replace_directory(out, contents=BUNDLE_FILES) as temporary:
        path = temporary / MODEL_FILE
        save_model(model, path)
        labels, quality = _judge(path, bundle, golden, out)
        model.graph.outputs[:] = [o for o in model.graph.outputs if o.name in bundle.outputs]
        save_model(model, path)
        own = replace(golden, literal=labels, precision=precision)
        save_golden(temporary / GOLDEN_FILE, own)
        if plan.dialect == "cpu":
            flown = OnnxRuntimeBackend(path, batches=bundle.input.batches)
            check(verify(flown, own, bundle.vocabulary.names), where=out)
        write_json(
            temporary / RECORD_FILE,
            {
                **bundle.record,
                "precision": precision,
                "dialect": plan.dialect,
                "plan": dict(plan.blocks),
                "islands": dict(written.islands),
                "calibration": table and {"method": table.method, "tiles": len(table.tiles)},
                "quality": quality,
                "files": {
                    file.name: sha256_file(file)
                    for file in sorted(temporary.iterdir())
                    if file.name != RECORD_FILE
                },
                "parents": {
                    **bundle.record["parents"],
                    "bundle": sha256_file(bundle.path / RECORD_FILE),
                    **({"table": table.to_json()["digest"]} if table else {}),
                },
                "tools": {name: version(name) for name in _TOOLS},
            },
        )
    return load_bundle(out)


def _extremes(bundle: Bundle, tiles: NDArray[np.uint8]) -> dict[str, tuple[float, str]]:
    """Largest magnitude of every float tensor of the FP32 graph, and the golden tile with it."""
    model = load_model(bundle.model_path)
    ir = require("onnx_ir", why="quantization")
    values = [v for n in model.graph for v in n.outputs if v.dtype == ir.DataType.FLOAT]
    run = observer(model, [value.name for value in values])
    found: dict[str, tuple[float, str]] = {}
    for index, tile in enumerate(tiles):
        pixels = np.repeat(tile[None], bundle.input.batches.start, axis=0)
        for value, array in zip(values, run(pixels), strict=True):
            top = float(np.abs(array).max())
            if not top <= found.get(value.name, (-1.0, ""))[0]:
                found[value.name] = (top, f"golden tile {index}")
    return found


def _judge(
    path: Path, bundle: Bundle, golden: Golden, out: Path
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Labels of the literal execution, and how far they and their logits are from FP32's."""
    backend = OnnxRuntimeBackend(path, batches=bundle.input.batches, literal=True)
    answers = answers_of(backend, golden.tiles)
    backend.close()
    if not np.isfinite(answers.logits).all():
        tile = int(np.flatnonzero(~np.isfinite(answers.logits).all(axis=(1, 2, 3)))[0])
        raise GateFailed(f"logits are not finite on golden tile {tile}", where=out)
    differ = answers.labels != golden.labels
    flips = np.bincount(golden.labels[differ], minlength=len(bundle.vocabulary.names))
    return answers.labels, {
        "label_agreement": float(1 - differ.mean()),
        "logit_sqnr_db": sqnr(golden.logits, answers.logits),
        "flips": dict(zip(bundle.vocabulary.names, flips.tolist(), strict=True)),
    }


def sqnr(reference: NDArray[np.float32], values: NDArray[np.float32]) -> float:
    """Signal to quantization noise, 10 log10(Σ r² / Σ (r − v)²), in dB."""
    noise = np.square(reference - values, dtype=np.float64).sum()
    signal = np.square(reference, dtype=np.float64).sum()
    return float(10 * np.log10(signal / max(noise, np.finfo(float).tiny)))
