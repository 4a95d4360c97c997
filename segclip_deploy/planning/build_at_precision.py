"""``build-engine --precision``: calibrate, plan, quantize and build in one go, on a workstation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.engine import Engine, golden_path, load_engine, move_engine
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.plan import AccuracyLimits
from segclip_deploy.artifacts.scheme import Precision, Scheme
from segclip_deploy.calibration.table import CalibrationTable
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.dataset import choose_plan_split, open_dataset
from segclip_deploy.export.onnx_model import load_model
from segclip_deploy.planning.planner import plan_precision
from segclip_deploy.progress import Report, saying, silent
from segclip_deploy.quantization.from_tiles import calibrate_on
from segclip_deploy.quantization.placement import uniform_plan
from segclip_deploy.quantization.quantize import quantize
from segclip_deploy.runtime.build_engine import build_engine, with_both_labels
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.runtime.open_engine import open_engine
from segclip_deploy.runtime.registry import target_of
from segclip_deploy.runtime.targets.base import BuildOptions
from segclip_deploy.runtime.targets.tuning import median_ms

__all__ = ["BuildPrecision", "build_at_precision"]

BuildPrecision = Literal["fp16", "int8", "auto"]


def build_at_precision(
    bundle: Bundle,
    out: Path,
    precision: BuildPrecision,
    *,
    calib: Path | None,
    dataset: Path | None,
    layout: str | None = None,
    mask_suffix: str = "",
    reading: Reading | None = None,
    max_miou_drop: float,
    options: BuildOptions | None = None,
    report: Report = silent,
) -> Engine:
    """Write a precision into a bundle and build an engine of it.

    Tables, plans and bundles are kept in ``<out>.work``, to look at and to go on from.

    Args:
        bundle: in FP32.
        out: the engine; its suffix selects the target.
        precision: ``auto`` builds two engines, one without INT8 and one of the planned mix, times
            both here, and keeps the faster. A target that makes labels in two ways tries both for
            each, unless the options say which.
        calib: what to calibrate on; for INT8.
        dataset: to evaluate a plan on, on its split ``plan`` or its only one; for ``auto``. None of its tiles may be
            calibrated on.
        layout: of the dataset; by default what is there decides.
        mask_suffix: of the dataset's masks.
        reading: how the images of both are read; by default as they are stored.
        max_miou_drop: shares of 1, for ``auto``.
        options: that the target acts on.
        report: of progress, and for ``auto`` of the milliseconds of both.

    Raises:
        BadInput: something that the precision needs is missing.
        GateFailed: no plan keeps the limit, or an engine fails verification.
        SegclipError: whatever else calibrating, quantizing and building raise.
    """
    target = target_of(out)
    work = out.with_name(out.name + ".work")
    if precision == "fp16":
        made = _uniform(bundle, "fp16", target.scheme, work, None)
        return build_engine(made, out, options=options)
    if calib is None:
        raise BadInput("INT8 needs real tiles", where=f"--precision {precision}", fix="--calib DIR")
    if precision == "auto" and dataset is None:
        raise BadInput(
            "a plan needs a dataset to be evaluated on",
            where="--precision auto",
            fix="--eval DATASET",
        )
    table = calibrate_on(
        bundle,
        [calib],
        work / "table.json",
        scheme=target.scheme,
        exclude=dataset,
        layout=layout,
        reading=reading,
        report=report,
    )
    if dataset is None or precision == "int8":
        made = _uniform(bundle, "int8", target.scheme, work, table)
        return build_engine(made, out, options=options)
    data = open_dataset(
        dataset, bundle.vocabulary, layout=layout, mask_suffix=mask_suffix, reading=reading
    )
    planned = plan_precision(
        bundle,
        table,
        data,
        work / "plan.yaml",
        scheme=target.scheme,
        split=choose_plan_split(data, None, report),
        limits=AccuracyLimits(max_miou_drop=max_miou_drop),
        report=report,
    )
    options = with_both_labels(target, options)
    high = target.scheme.rules.high
    sources = {
        high: bundle if high == "fp32" else _uniform(bundle, high, target.scheme, work, None),
        "mix": quantize(bundle, work / "mix", plan=planned.plan, table=table),
    }
    engines = {
        name: build_engine(source, work / f"{name}{target.suffix}", options=options)
        for name, source in sources.items()
    }
    times = _times(list(engines.values()))
    told = ", ".join(f"{name} {ms:.1f} ms" for name, ms in zip(engines, times, strict=True))
    saying(report)(f"{told}: the faster stays")
    move_engine(engines[min(zip(times, engines, strict=True))[1]], out)
    return load_engine(out)


def _uniform(
    bundle: Bundle,
    precision: Precision,
    scheme: Scheme,
    work: Path,
    table: CalibrationTable | None,
) -> Bundle:
    graph = load_model(bundle.for_scheme(scheme).model_path).graph
    plan = uniform_plan(bundle, graph, scheme, precision)
    return quantize(bundle, work / precision, plan=plan, table=table)


def _times(engines: Sequence[Engine]) -> list[float]:
    """Median milliseconds of each, on a golden tile, in turns."""
    tile = load_golden(golden_path(engines[0].path)).tiles[0]
    with ExitStack() as stack:
        backends = [stack.enter_context(open_engine(engine.path).backend) for engine in engines]
        return median_ms(backends, tile, rounds=30)
