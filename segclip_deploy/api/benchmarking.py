"""Measure accuracy against latency: ``benchmark``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segclip_deploy.api._arguments import (
    AnyPath,
    AnyPaths,
    check_choice,
    check_range,
    check_target,
    optional_path,
    paths_of,
)
from segclip_deploy.artifacts.scheme import PRECISIONS
from segclip_deploy.calibration.methods import METHOD_NAMES
from segclip_deploy.errors import UsageError
from segclip_deploy.evaluation.choices import LAYOUT_NAMES
from segclip_deploy.progress import Report, silent

if TYPE_CHECKING:
    from segclip_deploy.calibration.methods import Method
    from segclip_deploy.tradeoff.benchmark import Benchmark
    from segclip_deploy.tradeoff.board_folder import BoardFolder
    from segclip_deploy.tradeoff.made import PrecisionChoice
    from segclip_deploy.tradeoff.sweep import Steps

__all__ = ["benchmark"]


def benchmark(
    artefacts: AnyPaths,
    *,
    eval: AnyPath | None = None,
    out: AnyPath | None = None,
    prepare: AnyPath | None = None,
    split: str | None = None,
    layout: str | None = None,
    mask_suffix: str = "",
    bands: tuple[int, int, int] | None = None,
    scale: tuple[float, float] | None = None,
    keep_scale: bool = False,
    ignore_alpha: bool = False,
    allow_remote: bool = False,
    calib: AnyPath | None = None,
    target: Sequence[str] = (),
    precision: Sequence[PrecisionChoice] = (),
    budget: Sequence[float] = (0.3,),
    method: Sequence[Method] = ("percentile",),
    overlap: Sequence[int] = (),
    threads: Sequence[int] = (),
    samples: int = 200,
    frames: AnyPath | None = None,
    max_latency_ms: float | None = None,
    percentile: float = 99.0,
    max_miou_drop: float | None = None,
    min_class_iou: Mapping[str, float] | None = None,
    max_joules: float | None = None,
    bound: str | None = None,
    altitude: float | None = None,
    speed: float | None = None,
    sensor: str | None = None,
    front_overlap: float = 0.7,
    side_overlap: float = 0.7,
    power_modes: Sequence[str] = (),
    power_command: str | None = None,
    ambient: float | None = None,
    dry_run: bool = False,
    report: Report = silent,
) -> Benchmark | Steps | BoardFolder:
    """Measure accuracy against latency, and say which engine to fly.

    Every combination of the sequences is built, verified, scored and timed. The same call goes on
    where a killed one stopped.

        result = api.benchmark("fp32", eval="dubai", calib="tiles", out="report", max_latency_ms=40)
        result.results.recommended

    What a board without torch and onnx measures is prepared on a workstation:

        api.benchmark("fp32", eval="dubai", calib="tiles", prepare="board")  # copy it, and there:
        api.benchmark("board", out="report")

    Args:
        artefacts: bundles, in FP32 or quantized, and engines; one or several. What is not in FP32 is
            compared with the FP32 bundle or engine of its model, which is given, too. A checkpoint is
            exported first, at 512 × 512. Or one folder that ``prepare`` has written.
        eval: the dataset to evaluate on; a prepared folder brings its own.
        out: the folder of the report.
        prepare: write a folder for a board in place of measuring; its ``target`` are by default all.
        split: that reports accuracy; by default ``val``, or the only one.
        layout: segclip-deploy, loveda, uavid, isaid or mmseg; by default what is there decides.
        mask_suffix: what a mask's name has more than its image's: ``"_mask"``.
        bands, scale, keep_scale, ignore_alpha, allow_remote: as of ``calibrate``.
        calib: tiles to calibrate on, for ``"int8"`` and ``"planned"``.
        target: as ``doctor`` lists them; by default all that run here.
        precision: that FP32 bundles are made into; by default all four, or FP32 alone where something
            quantized is given.
        budget: percentage points of mIoU that a planned mix may lose.
        method: of calibration.
        overlap: pixels that windows share; by default what ``export --frame`` chose, or a quarter.
        threads: of engines on the CPU; by default what each was built for.
        samples: of latency, a row.
        frames: a folder of a camera's images; latency is measured on its first 20, and not on images of
            ``eval``. With one bundle for each window that is compared, it says which fits the camera.
        max_latency_ms: a frame, at ``percentile``.
        percentile: of latency, 1 to 100.
        max_miou_drop: percentage points of mIoU against FP32.
        min_class_iou: IoU, 0 to 1, that a class must keep, by name.
        max_joules: a frame.
        bound: boards to compute lower bounds for: ``"orin-nano,thor"``.
        altitude: of a mission: metres above ground.
        speed: of a mission: metres a second.
        sensor: of a mission: ``"dji-p1"``, or ``"4000x2250,6.17mm,3.61mm"``.
        front_overlap, side_overlap: of a mission: shares of a photo.
        power_modes: of this Jetson, in which the grid is built and measured, one after another:
            ``("15W", "25W")``; by default the one that is found.
        power_command: that switches them: ``"sudo nvpmodel -m {id}"``. The mode that was found is put
            back at the end, on an error, and on Ctrl-C.
        ambient: °C around the machine, which goes into the report.
        dry_run: say what would be done, and do nothing but export checkpoints.
        report: told how far it is.

    Returns:
        page and results; with ``dry_run`` the steps there would be; with ``prepare`` the folder.

    Raises:
        UsageError: arguments that do not go together, or no command for the power modes.
        BadArtifact: an artefact that is neither bundle nor engine, or a prepared folder without its manifest.
        BadInput: a dataset, split, class, board, frame or power mode that is none, a disk or memory that is
            too small; a mode that cannot be entered, or needs a reboot.
        StaleArtifact: a prepared folder whose files have changed.
    """
    check_choice("--layout", layout, LAYOUT_NAMES)
    check_choice("--precision", precision, (*PRECISIONS, "planned"))
    check_choice("--method", method, METHOD_NAMES)
    check_range("--threads", threads, 1)
    check_range("--samples", samples, 10)
    check_range("--percentile", percentile, 1, 100)
    check_target(target)
    place = prepare if out is None else out
    if place is None or (out is not None and prepare is not None):
        raise UsageError("give either -o FOLDER for the report, or --prepare FOLDER for a board")
    from segclip_deploy.runtime.io.raster.source import Reading
    from segclip_deploy.tradeoff.benchmark import benchmark_bundles, write_prepared
    from segclip_deploy.tradeoff.recommend import FlightLimits
    from segclip_deploy.tradeoff.sweep_request import Request, prepare_sweep

    prepared = prepare_sweep(
        Request(
            artefacts=paths_of(artefacts),
            dataset=optional_path(eval),
            out=Path(place),
            prepare=prepare is not None,
            split=split,
            layout=layout,
            mask_suffix=mask_suffix,
            reading=Reading(bands, scale, keep_scale, ignore_alpha, allow_remote),
            calib=optional_path(calib),
            targets=target,
            precisions=precision or None,
            budgets=budget,
            methods=method,
            overlaps=overlap,
            threads=threads,
            samples=samples,
            frames=optional_path(frames),
            limits=FlightLimits(
                latency_ms=max_latency_ms,
                percentile=percentile,
                miou_drop=None if max_miou_drop is None else max_miou_drop / 100,
                class_iou=dict(min_class_iou or {}),
                joules=max_joules,
            ),
            boards=bound,
            altitude=altitude,
            speed=speed,
            camera=sensor,
            front_overlap=front_overlap,
            side_overlap=side_overlap,
            power_modes=power_modes,
            power_command=power_command,
            ambient=ambient,
        ),
        report,
    )
    if dry_run:
        return prepared.steps()
    if prepare is not None:
        return write_prepared(prepared, Path(prepare), report)
    return benchmark_bundles(prepared, report)
