"""``quantize``: an FP32 bundle and a plan become a bundle with its precision written in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts import records
from segclip_deploy.artifacts.bundle import (
    BUNDLE_FILES,
    MODEL_FILE,
    Bundle,
    load_bundle,
    write_bundle,
)
from segclip_deploy.artifacts.bundle_record import Calibration, Quality, Quantization
from segclip_deploy.artifacts.files import replace_directory
from segclip_deploy.artifacts.golden import Golden, load_golden
from segclip_deploy.artifacts.plan import PrecisionPlan
from segclip_deploy.calibration.table import CalibrationTable, check_table
from segclip_deploy.errors import BadInput, GateFailed
from segclip_deploy.export.costs import find_products
from segclip_deploy.export.onnx_model import (
    check_fp32,
    expose,
    keep_outputs,
    load_model,
    save_model,
)
from segclip_deploy.export.parity import answers_of
from segclip_deploy.quantization.activation_absmax import find_extremes
from segclip_deploy.quantization.block_precision import check_plan
from segclip_deploy.quantization.fp16 import islands, overflow_islands, write_fp16
from segclip_deploy.quantization.fp16_emulation import round_as_fp16
from segclip_deploy.quantization.placement import place
from segclip_deploy.quantization.qdq import write_qdq
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.verify import verify

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
    placement = place(graph, plan.scheme, plan.int8)
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
        write_qdq(graph, placement, table.ranges, plan.scheme, table.means)
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

    The file is executed literally by ONNX Runtime on the golden tiles; its labels become the
    reference that every engine built from it is held to. That leaves FP16 unrounded, so once
    more with every FP16 tensor rounded: those logits must be finite, and their distance from
    FP32's is recorded as the quality.

    Args:
        bundle: in FP32.
        out: the bundle directory; an older bundle there is replaced.
        plan: for this bundle.
        table: measured in this bundle; needed where the plan has INT8.

    Raises:
        BadArtifact: the bundle is not FP32, or the plan does not fit it.
        BadInput: INT8 without a table, or ``out`` is the bundle itself.
        StaleArtifact: a plan or table of another bundle.
        GateFailed: the result is not finite, or ONNX Runtime's fast kernels disagree with the
            literal execution; nothing is written.
    """
    check_fp32(bundle)
    if out.resolve() == bundle.path.resolve():
        raise BadInput(
            "this is the FP32 bundle itself", where=out, fix="keep it, choose another output"
        )
    precision = plan.lowest
    golden = load_golden(bundle.golden_path)
    model = load_model(bundle.model_path)
    check_plan(plan, bundle, model.graph)
    if table:
        check_table(table, bundle)
    expose(model, "logits")
    extremes = find_extremes(bundle, golden.tiles) if plan.scheme.rules.high == "fp16" else {}
    written = write_precision(model, plan, table, extremes)
    table = table if written.int8 else None
    with replace_directory(out, contents=BUNDLE_FILES) as temporary:
        path = temporary / MODEL_FILE
        save_model(model, path)
        labels, quality = _judge(path, bundle, golden, out)
        keep_outputs(model, bundle.outputs)
        save_model(model, path)
        own = replace(
            golden,
            literal=labels,
            precision=precision,
            agreement=quality.literal_agreement,
        )
        parent = bundle.record
        record = records.replace(
            parent,
            precision=precision,
            blocks=tuple(
                records.replace(cost, precision=plan.blocks[cost.block]) for cost in parent.blocks
            ),
            parents=records.replace(
                parent.parents,
                bundle=bundle.sha256,
                table=table.to_json()["digest"] if table else None,
            ),
            tools={name: version(name) for name in _TOOLS},
            quantization=Quantization(
                scheme=plan.scheme,
                plan=plan.blocks,
                int8_macs=_share(bundle, written.int8),
                fp32_fallback=written.islands,
                calibration=Calibration(table.method, len(table.tiles)) if table else None,
                quality=quality,
            ),
        )
        write_bundle(temporary, record, own)
        if not plan.scheme.rules.literal:
            with OnnxRuntimeBackend(path, batches=bundle.input.batches) as flown:
                verify(flown, own, bundle.vocabulary.names).require(where=out)
    return load_bundle(out)


def _share(bundle: Bundle, int8: Collection[str]) -> float:
    """The share of multiply-accumulates that is INT8."""
    macs = {product.name: product.macs for product in find_products(bundle.model_path)}
    return sum(macs[name] for name in int8) / sum(macs.values())


def _judge(
    path: Path, bundle: Bundle, golden: Golden, out: Path
) -> tuple[NDArray[np.uint8], Quality]:
    """Labels of the literal execution; and of FP16 that rounds, how far it is from FP32."""
    literal = _execute(path, bundle, golden)
    answers = literal
    model = load_model(path)
    if round_as_fp16(model.graph):
        with TemporaryDirectory() as folder:
            rounded = Path(folder) / MODEL_FILE
            save_model(model, rounded)
            answers = _execute(rounded, bundle, golden)
    if not np.isfinite(answers.logits).all():
        tile = int(np.flatnonzero(~np.isfinite(answers.logits).all(axis=(1, 2, 3)))[0])
        raise GateFailed(f"logits are not finite on golden tile {tile}", where=out)
    differ = answers.labels != golden.labels
    flips = np.bincount(golden.labels[differ], minlength=len(bundle.vocabulary.names))
    return literal.labels, Quality(
        label_agreement=float(1 - differ.mean()),
        literal_agreement=float((answers.labels == literal.labels).mean()),
        logit_sqnr_db=sqnr(golden.logits, answers.logits),
        flips=dict(zip(bundle.vocabulary.names, flips.tolist(), strict=True)),
    )


def _execute(path: Path, bundle: Bundle, golden: Golden) -> Golden:
    with OnnxRuntimeBackend(path, batches=bundle.input.batches, literal=True) as backend:
        return answers_of(backend, golden.tiles)


def sqnr(reference: NDArray[np.float32], values: NDArray[np.float32]) -> float:
    """Signal to quantization noise, 10 log10(Σ r² / Σ (r − v)²), in dB; finite without noise."""
    noise = np.square(reference - values, dtype=np.float64).sum()
    signal = np.square(reference, dtype=np.float64).sum()
    powers = np.maximum([signal, noise], np.finfo(float).tiny)
    return float(10 * -np.diff(np.log10(powers))[0])
