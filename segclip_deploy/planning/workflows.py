"""The few verbs that cross packages: calibrating on folders, and building in a wanted precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.scheme import Precision, Scheme
from segclip_deploy.calibration.calibrate import calibrate
from segclip_deploy.calibration.selection import TileSet, select_tiles
from segclip_deploy.calibration.sheet import contact_sheet
from segclip_deploy.calibration.table import CalibrationTable
from segclip_deploy.calibration.tiles import find_tiles
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.dataset import open_dataset
from segclip_deploy.export.onnx_model import check_fp32, load_model
from segclip_deploy.planning.planner import make_plan
from segclip_deploy.planning.search import Limits
from segclip_deploy.progress import Report, silent
from segclip_deploy.quantization.block_precision import uniform_plan
from segclip_deploy.quantization.quantize import quantize
from segclip_deploy.quantization.smooth import smooth
from segclip_deploy.runtime.build import build_engine
from segclip_deploy.runtime.engine import (
    TARGETS,
    Engine,
    golden_path,
    load_engine,
    move_engine,
    open_engine,
    target_of,
)
from segclip_deploy.runtime.targets.tensorrt.builder import Progress
from segclip_deploy.runtime.targets.tensorrt.library import MODULES
from segclip_deploy.runtime.targets.tensorrt.options import BuildOptions
from segclip_deploy.runtime.targets.tuning import median_ms

__all__ = ["Wanted", "build_wanted", "calibrate_on", "smooth_on"]

Wanted = Literal["fp16", "int8", "auto"]

_SELECTED = 256


def calibrate_on(
    bundle: Bundle,
    sources: Sequence[Path],
    out: Path,
    *,
    method: str = "percentile",
    select: int = _SELECTED,
    exclude: Path | None = None,
    sheet: Path | None = None,
    report: Report = silent,
) -> tuple[CalibrationTable, TileSet]:
    """Find tiles, choose those that cover them all, and measure ranges on these.

    Args:
        bundle: in FP32; it also labels the tiles, so that no class is forgotten.
        sources: images, folders, lists or datasets.
        out: the table to write.
        method: how a range is read off a histogram.
        select: how many tiles.
        exclude: a dataset that will judge the result.
        sheet: a contact sheet to write.
        report: of progress.

    Raises:
        BadInput: the tiles cannot be used.
        BadArtifact: the bundle is not FP32.
    """
    check_fp32(bundle)  # before all images are read
    pool = find_tiles(sources, bundle.input, exclude=exclude, report=_stage(report, "reading"))
    opened = open_engine(bundle.path)
    batch = opened.backend.inputs[0].batches.start

    def label(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
        outputs = opened.backend.infer({"image": np.repeat(tile[None], batch, axis=0)})
        return outputs["labels"][0].copy()

    tiles = select_tiles(pool, select, labels=label, report=_stage(report, "labelling"))
    opened.backend.close()
    if sheet:
        contact_sheet(tiles, sheet, vocabulary=bundle.vocabulary)
    table = calibrate(bundle, tiles, out, method=method, report=_stage(report, "calibrating"))
    return table, tiles


def smooth_on(
    bundle: Bundle,
    sources: Sequence[Path],
    out: Path,
    *,
    alpha: float,
    select: int,
    exclude: Path | None = None,
    report: Report = silent,
) -> Bundle:
    """Find tiles, choose those that cover them all, and ``smooth`` by what channels reach on these.

    Args:
        sources, select, exclude, report: as for ``calibrate_on``.
        bundle, out, alpha: as for ``smooth``.

    Raises:
        SegclipError: whatever finding tiles and smoothing raise.
    """
    check_fp32(bundle)  # before all images are read
    pool = find_tiles(sources, bundle.input, exclude=exclude, report=_stage(report, "reading"))
    tiles = select_tiles(pool, select)
    return smooth(bundle, tiles, out, alpha=alpha, report=_stage(report, "looking"))


def build_wanted(
    bundle: Bundle,
    out: Path,
    wanted: Wanted,
    *,
    calib: Path | None,
    dataset: Path | None,
    max_miou_drop: float,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
    report: Report = silent,
) -> tuple[Engine, dict[str, float] | None]:
    """Write a precision into a bundle and build an engine of it: on a workstation, in one go.

    Tables, plans and bundles are kept in ``<out>.work``, to look at and to go on from.

    Args:
        bundle: in FP32.
        out: the engine; its name says the target.
        wanted: ``auto`` builds what runs beside INT8 alone and the planned mix, times both here,
            and keeps the faster.
        calib: what to calibrate on; for INT8.
        dataset: judges a plan, on its split ``plan``; for ``auto``. None of its tiles may be
            calibrated on.
        max_miou_drop: shares of 1, for ``auto``.
        options, progress: of a TensorRT build.
        report: of progress.

    Returns:
        The engine, and for ``auto`` the milliseconds of both.

    Raises:
        BadInput: something that the precision needs is missing.
        GateFailed: no plan keeps the limit, or an engine fails the flight check.
        SegclipError: whatever else calibrating, quantizing and building raise.
    """
    scheme = Scheme.TENSORRT if target_of(out) in MODULES else Scheme.CPU
    work = out.with_name(out.name + ".work")
    if wanted == "fp16":
        made = _uniform(bundle, "fp16", scheme, work, None)
        return build_engine(made, out, options=options, progress=progress), None
    if calib is None:
        raise BadInput("INT8 needs real tiles", where=f"--precision {wanted}", fix="--calib DIR")
    if wanted == "auto" and dataset is None:
        raise BadInput(
            "a plan needs a dataset that judges it", where="--precision auto", fix="--eval DATASET"
        )
    table, _ = calibrate_on(bundle, [calib], work / "table.json", exclude=dataset, report=report)
    if dataset is None or wanted == "int8":
        made = _uniform(bundle, "int8", scheme, work, table)
        return build_engine(made, out, options=options, progress=progress), None
    planned = make_plan(
        bundle,
        table,
        open_dataset(dataset, bundle.vocabulary),
        work / "plan.yaml",
        scheme=scheme,
        split="plan",
        limits=Limits(max_miou_drop, {}),
        report=report,
    )
    high = scheme.rules.high
    sources = {
        high: bundle if high == "fp32" else _uniform(bundle, high, scheme, work, None),
        "mix": quantize(bundle, work / "mix", plan=planned.plan, table=table),
    }
    suffix = TARGETS[target_of(out)].suffix
    engines = {
        name: build_engine(source, work / f"{name}{suffix}", options=options, progress=progress)
        for name, source in sources.items()
    }
    times = _times(list(engines.values()))
    faster = min(zip(times, engines, strict=True))[1]
    move_engine(engines[faster], out)
    return load_engine(out), dict(zip(engines, times, strict=True))


def _uniform(
    bundle: Bundle,
    precision: Precision,
    scheme: Scheme,
    work: Path,
    table: CalibrationTable | None,
) -> Bundle:
    plan = uniform_plan(bundle, load_model(bundle.model_path).graph, scheme, precision)
    return quantize(bundle, work / precision, plan=plan, table=table)


def _times(engines: Sequence[Engine]) -> list[float]:
    """Median milliseconds of each, on a golden tile, in turns."""
    backends = [open_engine(engine.path).backend for engine in engines]
    try:
        tile = load_golden(golden_path(engines[0].path)).tiles[0]
        return median_ms(backends, tile, rounds=30)
    finally:
        for backend in backends:
            backend.close()


def _stage(report: Report, what: str) -> Callable[[int, int], None]:
    return lambda done, total: report(what, done, total)
