"""Quantize: ``smooth``, ``calibrate``, ``plan`` and ``quantize``, from tiles to a precision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from segclip_deploy.api._arguments import AnyPath, AnyPaths, check_choice, optional_path, paths_of
from segclip_deploy.artifacts.scheme import PLACERS, parse_scheme
from segclip_deploy.calibration.methods import METHOD_NAMES
from segclip_deploy.errors import UsageError
from segclip_deploy.evaluation.choices import LAYOUT_NAMES
from segclip_deploy.progress import Report, silent

if TYPE_CHECKING:
    from segclip_deploy.artifacts.bundle import Bundle
    from segclip_deploy.artifacts.scheme import Placer, Precision, Scheme
    from segclip_deploy.calibration.methods import Method
    from segclip_deploy.calibration.table import CalibrationTable
    from segclip_deploy.planning.planner import Planned

__all__ = ["calibrate", "plan", "quantize", "smooth"]


def smooth(
    bundle: AnyPath,
    *,
    tiles: AnyPaths,
    out: AnyPath,
    alpha: float = 0.5,
    select: int = 64,
    eval: AnyPath | None = None,
    layout: str | None = None,
    bands: tuple[int, int, int] | None = None,
    scale: tuple[float, float] | None = None,
    keep_scale: bool = False,
    ignore_alpha: bool = False,
    allow_remote: bool = False,
    report: Report = silent,
) -> Bundle:
    """Even out the outlier channels of a ViT (SmoothQuant, Xiao et al., 2023), before calibrating.

    The result is an FP32 bundle that computes the same; calibrate, plan and quantize that one.

        api.smooth("fp32", tiles="tiles", out="smooth")

    Args:
        bundle: in FP32.
        tiles, select, eval, layout: as of ``calibrate``.
        out: the bundle directory to write.
        alpha: how much of an outlier moves into the weights, between 0 and 1.
        bands, scale, keep_scale, ignore_alpha, allow_remote: as of ``calibrate``.
        report: told how far it is.

    Raises:
        BadArtifact: the bundle is not FP32.
        BadInput: tiles that cannot be used, or a network without LayerNorm before a product.
    """
    check_choice("--layout", layout, LAYOUT_NAMES)
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.quantization.from_tiles import smooth_on
    from segclip_deploy.runtime.io.raster.source import Reading

    return smooth_on(
        load_bundle(bundle),
        paths_of(tiles),
        Path(out),
        alpha=alpha,
        select=select,
        exclude=optional_path(eval),
        layout=layout,
        reading=Reading(bands, scale, keep_scale, ignore_alpha, allow_remote),
        report=report,
    )


def calibrate(
    bundle: AnyPath,
    *,
    tiles: AnyPaths,
    out: AnyPath,
    method: Method = "percentile",
    select: int = 256,
    eval: AnyPath | None = None,
    layout: str | None = None,
    sheet: AnyPath | None = None,
    bands: tuple[int, int, int] | None = None,
    scale: tuple[float, float] | None = None,
    keep_scale: bool = False,
    ignore_alpha: bool = False,
    allow_remote: bool = False,
    report: Report = silent,
) -> CalibrationTable:
    """Measure the ranges of a bundle's activations, on tiles that cover what it will see.

    The same call goes on where a killed one stopped.

        table = api.calibrate("fp32", tiles="tiles", out="table.json", eval="dubai")
        table.coverage.classes["water"].chosen

    Args:
        bundle: in FP32.
        tiles: images, folders, lists (.txt) or datasets; one or several.
        out: the table to write (.json).
        method: how a range is read off a histogram: percentile, entropy, mse or minmax.
        select: how many tiles are chosen.
        eval: a dataset for evaluation; none of its tiles may be used.
        layout: segclip-deploy, loveda, uavid, isaid or mmseg, of a dataset that fits several; by default
            what is there decides.
        sheet: a contact sheet of the chosen tiles to write (.png).
        bands: which bands of the images are red, green and blue, from 1.
        scale: of more than 8 bits: the values that become 0 and 255.
        keep_scale: rasters are not resampled to the model's ground sample distance.
        ignore_alpha: an alpha band takes no pixel away.
        allow_remote: VRTs may refer to the network and to other folders.
        report: told how far it is.

    Raises:
        BadArtifact: the bundle is not FP32.
        BadInput: the tiles cannot be used, or are among those for evaluation.
    """
    check_choice("--method", method, METHOD_NAMES)
    check_choice("--layout", layout, LAYOUT_NAMES)
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.quantization.from_tiles import calibrate_on
    from segclip_deploy.runtime.io.raster.source import Reading

    return calibrate_on(
        load_bundle(bundle),
        paths_of(tiles),
        Path(out),
        method=method,
        select=select,
        exclude=optional_path(eval),
        layout=layout,
        sheet=optional_path(sheet),
        reading=Reading(bands, scale, keep_scale, ignore_alpha, allow_remote),
        report=report,
    )


def plan(
    bundle: AnyPath,
    *,
    table: AnyPath,
    eval: AnyPath,
    out: AnyPath,
    scheme: Scheme | str,
    split: str | None = None,
    layout: str | None = None,
    mask_suffix: str = "",
    bands: tuple[int, int, int] | None = None,
    scale: tuple[float, float] | None = None,
    ignore_alpha: bool = False,
    max_miou_drop: float = 0.3,
    min_class_iou: Mapping[str, float] | None = None,
    max_latency_ms: float | None = None,
    heat_map: AnyPath | None = None,
    report: Report = silent,
) -> Planned:
    """Find the fastest mix of INT8 and higher precision that keeps a bundle's accuracy.

    Every step is measured. The same call goes on where a killed one stopped.

        made = api.plan("fp32", table="table.json", eval="dubai", out="plan.yaml", scheme="cpu")
        made.plan.blocks["encoder.stage0"]

    Args:
        bundle: in FP32.
        table: from ``calibrate``.
        eval: the dataset to evaluate on.
        out: the plan to write (.yaml).
        scheme: whom it is for: ``"tensorrt"`` or ``"cpu"``.
        split: of the dataset; by default ``plan``, or the only one. Keep val for results.
        layout: segclip-deploy, loveda, uavid, isaid or mmseg; by default what is there decides.
        mask_suffix: what a mask's name has more than its image's: ``"_mask"``.
        bands, scale, ignore_alpha: as of ``calibrate``.
        max_miou_drop: percentage points of mIoU that may be lost.
        min_class_iou: IoU, 0 to 1, that a class must keep, by name.
        max_latency_ms: median here, milliseconds; for scheme cpu.
        heat_map: a picture of every block's sensitivity to write (.png).
        report: told how far it is.

    Raises:
        BadInput: no such split or class, or a tile of the table is among those for evaluation.
        GateFailed: no mix keeps the limits.
    """
    check_choice("--layout", layout, LAYOUT_NAMES)
    rules = parse_scheme(scheme)
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.artifacts.plan import AccuracyLimits
    from segclip_deploy.calibration.table import load_table
    from segclip_deploy.evaluation.dataset import choose_plan_split, open_dataset
    from segclip_deploy.planning.planner import plan_precision
    from segclip_deploy.planning.sensitivity import heat_map as draw
    from segclip_deploy.runtime.io.raster.source import Reading

    loaded = load_bundle(bundle)
    reading = Reading(bands, scale, ignore_alpha=ignore_alpha)
    data = open_dataset(
        eval, loaded.vocabulary, layout=layout, mask_suffix=mask_suffix, reading=reading
    )
    chosen = choose_plan_split(data, split, report)
    made = plan_precision(
        loaded,
        load_table(Path(table), loaded),
        data,
        Path(out),
        scheme=rules,
        split=chosen,
        limits=AccuracyLimits(
            max_miou_drop=max_miou_drop / 100, min_class_iou=dict(min_class_iou or {})
        ),
        max_latency_ms=max_latency_ms,
        report=report,
    )
    if heat_map is not None:
        title = f"INT8 by block, scheme {rules.value}, split {chosen}"
        draw(made.effects, Path(heat_map), title=title)
    return made


def quantize(
    bundle: AnyPath,
    *,
    out: AnyPath,
    scheme: Scheme | str | None = None,
    precision: Precision | None = None,
    plan: AnyPath | None = None,
    table: AnyPath | None = None,
    placement: Placer = "own",
    tiles: AnyPaths = (),
    layout: str | None = None,
    bands: tuple[int, int, int] | None = None,
    scale: tuple[float, float] | None = None,
    keep_scale: bool = False,
    ignore_alpha: bool = False,
    allow_remote: bool = False,
) -> Bundle:
    """Write precision into a bundle: INT8 as Q/DQ, FP16 as casts; proven before it counts.

        api.quantize("fp32", out="int8", plan="plan.yaml", table="table.json")
        api.quantize("fp32", out="fp16", scheme="tensorrt", precision="fp16")
        api.quantize("fp32", out="int8-modelopt", plan="plan.yaml", table="table.json",
                     placement="modelopt", tiles="tiles")

    Args:
        bundle: in FP32.
        out: the bundle directory to write.
        scheme: whom it is for, with ``precision``.
        precision: ``"fp16"`` or ``"int8"``, for every block that can have it.
        plan: or a plan (.yaml), which names its scheme.
        table: from ``calibrate``; INT8 needs one.
        placement: who places Q/DQ: ``"own"``, with the table's ranges; or ``"modelopt"``, for TensorRT, with
            ranges that it measures itself, on the table's tiles.
        tiles, layout, bands, scale, keep_scale, ignore_alpha, allow_remote: as they were given to ``calibrate``,
            for ``"modelopt"``.

    Raises:
        UsageError: arguments that do not go together.
        BadInput: INT8 without a table.
        BadArtifact: modelopt fails on this model.
        MissingDependency: modelopt is to place, and is not installed.
        GateFailed: the result is not what was asked for; nothing is written.
        StaleArtifact: plan or table belong to another bundle, or a tile of the table is not among ``tiles``.
    """
    from segclip_deploy.artifacts.bundle import load_bundle
    from segclip_deploy.artifacts.plan import load_plan
    from segclip_deploy.calibration.table import load_table
    from segclip_deploy.calibration.tiles_again import find_again
    from segclip_deploy.export.onnx_model import load_model
    from segclip_deploy.quantization.placement import place_plan, uniform_plan
    from segclip_deploy.quantization.quantize import quantize as write
    from segclip_deploy.runtime.io.raster.source import Reading

    check_choice("--precision", precision, ("fp16", "int8"))
    check_choice("--placement", placement, PLACERS)
    check_choice("--layout", layout, LAYOUT_NAMES)
    sources = paths_of(tiles)
    reading = Reading(bands, scale, keep_scale, ignore_alpha, allow_remote)
    by_modelopt = placement == "modelopt"
    if not by_modelopt and (sources or layout or reading != Reading()):
        raise UsageError("tiles and how they are read are for --placement modelopt")
    if by_modelopt and not (sources and table):
        raise UsageError(
            "--placement modelopt measures on the tiles of --table: give it, and --tiles"
        )
    rules = None if scheme is None else parse_scheme(scheme)
    if plan is not None and (precision or scheme):
        raise UsageError("a plan names scheme and precision itself")
    loaded = load_bundle(bundle)
    ranges = load_table(Path(table), loaded) if table is not None else None
    if plan is not None:
        chosen = load_plan(Path(plan))
        graph = load_model(loaded.for_scheme(chosen.scheme).model_path).graph
        place_plan(chosen, loaded, graph, where=Path(plan))  # a fault is told with the file's name
    elif rules and precision:
        graph = load_model(loaded.for_scheme(rules).model_path).graph
        chosen = uniform_plan(loaded, graph, rules, precision)
    else:
        raise UsageError("give either --plan, or --scheme with --precision")
    pixels = None
    if by_modelopt and ranges:
        pixels = find_again(ranges, loaded, sources, layout=layout, reading=reading)
    return write(loaded, Path(out), plan=chosen, table=ranges, tiles=pixels)
