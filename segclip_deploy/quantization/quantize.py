"""``quantize``: an FP32 bundle and a plan become a bundle with its precision written in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts import records
from segclip_deploy.artifacts.bundle import (
    BUNDLE_FILES,
    Bundle,
    load_bundle,
    write_bundle,
)
from segclip_deploy.artifacts.bundle_record import Calibration, PlannedOperator, Quantization
from segclip_deploy.artifacts.files import replace_directory
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.plan import PrecisionPlan
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.calibration.table import CalibrationTable, check_table
from segclip_deploy.errors import BadInput
from segclip_deploy.export.costs import count_blocks, find_operators
from segclip_deploy.export.onnx_model import load_fp32, save_model
from segclip_deploy.quantization.activation_absmax import find_absmax
from segclip_deploy.quantization.modelopt_placement import (
    MODELOPT,
    MODELOPT_METHOD,
    place_with_modelopt,
)
from segclip_deploy.quantization.placement import place_plan
from segclip_deploy.quantization.precision import write_precision
from segclip_deploy.quantization.proof import prove
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.verify import verify

__all__ = ["quantize"]

_TOOLS = ("onnx", "onnx_ir", "onnxruntime", "numpy")


def quantize(
    bundle: Bundle,
    out: Path,
    *,
    plan: PrecisionPlan,
    table: CalibrationTable | None,
    tiles: Iterable[NDArray[np.uint8]] | None = None,
) -> Bundle:
    """Write a plan's precision into a bundle, and prove the result before it counts.

    The reference run executes the file on the golden tiles, in ONNX Runtime with its optimizations
    off. Its labels are what every engine built from it is compared with. It leaves FP16 unrounded, so once
    more with every FP16 tensor rounded: those logits must be finite, and their distance from
    FP32's is recorded as the quality.

    Args:
        bundle: in FP32.
        out: the bundle directory; an older bundle there is replaced.
        plan: for this bundle.
        table: measured in this bundle; needed where the plan has INT8.
        tiles: of the table, (H, W, 3) each: modelopt places Q/DQ and measures its ranges on them. None:
            we place it, with the table's ranges.

    Raises:
        BadArtifact: the bundle is not FP32, the plan does not fit it, or modelopt fails.
        MissingDependency: tiles, and modelopt is not installed.
        BadInput: INT8 without a table, tiles without INT8 for TensorRT, or ``out`` is the bundle
            itself.
        StaleArtifact: a plan or table of another bundle.
        GateFailed: the result is not finite, or ONNX Runtime's fast kernels disagree with the
            reference run; nothing is written.
    """
    if out.resolve() == bundle.path.resolve():
        raise BadInput(
            "this is the FP32 bundle itself", where=out, fix="keep it, choose another output"
        )
    bundle = bundle.for_scheme(plan.scheme)
    model = load_fp32(bundle)
    placement = place_plan(plan, bundle, model.graph)
    if tiles is not None and (plan.scheme is not Scheme.TENSORRT or not placement.weights):
        raise BadInput(
            "modelopt places INT8 for scheme tensorrt, and this plan asks for none of that",
            where="--placement modelopt",
            fix="leave it out",
        )
    if table:
        check_table(table, bundle)
    golden = load_golden(bundle.golden_path)
    absmax = {}
    if plan.scheme.rules.high == "fp16":
        absmax = find_absmax(model, golden.tiles, bundle.input.batches.start)
    place = None
    if tiles is not None and table:
        place = partial(place_with_modelopt, bundle, tiles, len(table.tiles))
    statistics = table.of(bundle.lowering) if table else None
    applied = write_precision(model, plan, placement, statistics, absmax, place)
    table = table if applied.int8 else None
    operators = {
        operator.name: PlannedOperator(
            macs=operator.macs, precision=applied.precision(operator.name)
        )
        for operator in find_operators(bundle.model_path)
    }
    labels, quality = prove(model, bundle, golden, where=out)
    with replace_directory(out, contents=BUNDLE_FILES) as temporary:
        path = temporary / bundle.model_path.name
        save_model(model, path, outputs=bundle.outputs)
        own = replace(
            golden,
            reference=labels,
            precision=plan.lowest,
            agreement=quality.reference_agreement,
        )
        parent = bundle.record
        record = records.replace(
            parent,
            precision=plan.lowest,
            blocks=tuple(
                records.replace(cost, precision=applied.blocks[cost.block])
                for cost in count_blocks(bundle.model_path)
            ),
            parents=records.replace(
                parent.parents,
                bundle=bundle.sha256,
                table=table.digest if table else None,
            ),
            tools={name: version(name) for name in (*_TOOLS, *((MODELOPT,) if place else ()))},
            quantization=Quantization(
                scheme=plan.scheme,
                placement="modelopt" if place else "own",
                plan=applied.blocks,
                int8_macs=_int8_share(operators),
                fp32_fallback=applied.fp32_fallback,
                calibration=_calibration(table, MODELOPT_METHOD if place else table.method)
                if table
                else None,
                quality=quality,
                operators=operators,
            ),
        )
        write_bundle(temporary, record, own)
        if not plan.scheme.rules.reference:
            with OnnxRuntimeBackend(path, batches=bundle.input.batches) as flown:
                verify(flown, own, bundle.vocabulary.names).require(where=out)
    return load_bundle(out)


def _int8_share(operators: Mapping[str, PlannedOperator]) -> float:
    int8 = sum(one.macs for one in operators.values() if one.precision == "int8")
    return int8 / sum(one.macs for one in operators.values())


def _calibration(table: CalibrationTable, method: str) -> Calibration:
    """What a bundle says of the tiles that its ranges are from, and how these were read off."""
    return Calibration(method=method, tiles=len(table.tiles), appearance=table.appearance)
