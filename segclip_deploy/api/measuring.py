"""Measure: ``evaluate``, ``profile``, ``compare`` and ``benchmark``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segclip_deploy._optional import require
from segclip_deploy.api._arguments import (
    TORCH_DEVICES,
    AnyPath,
    AnyPaths,
    check_above,
    check_choice,
    check_range,
    check_target,
    optional_path,
    paths_of,
)
from segclip_deploy.artifacts.latency_table import LATENCY_TABLE, LatencyTable
from segclip_deploy.artifacts.scheme import PRECISIONS
from segclip_deploy.calibration.methods import METHOD_NAMES
from segclip_deploy.errors import UsageError
from segclip_deploy.evaluation.choices import LAYOUT_NAMES, PROTOCOL_NAMES, ProtocolName
from segclip_deploy.progress import Report, saying, silent

if TYPE_CHECKING:
    from segclip_deploy.calibration.methods import Method
    from segclip_deploy.evaluation.evaluate import Evaluation
    from segclip_deploy.runtime.inference.segmenter import Segmenter
    from segclip_deploy.runtime.profiling.compare import Comparison
    from segclip_deploy.runtime.profiling.record import ProfileRecord
    from segclip_deploy.tradeoff.benchmark import Benchmark
    from segclip_deploy.tradeoff.board_folder import BoardFolder
    from segclip_deploy.tradeoff.made import PrecisionChoice
    from segclip_deploy.tradeoff.sweep import Steps

__all__ = ["benchmark", "compare", "evaluate", "profile"]


def evaluate(
    engine: AnyPath,
    dataset: AnyPath,
    *,
    split: str | None = None,
    protocol: ProtocolName = "joined",
    layout: str | None = None,
    mask_suffix: str = "",
    bands: tuple[int, int, int] | None = None,
    scale: tuple[float, float] | None = None,
    ignore_alpha: bool = False,
    overlap: int | None = None,
    threads: int = 0,
    device: str | None = None,
    reliability: AnyPath | None = None,
    report: Report = silent,
) -> Evaluation:
    """Score an engine on a dataset, by the same path that flies.

        api.evaluate("dubai.ov.onnx", "dubai").miou

    Args:
        engine: an engine, a bundle, or a checkpoint, which runs in PyTorch at 512 × 512.
        dataset: of any layout (docs/how-to/datasets.md).
        split: by default ``val``, or the only one.
        protocol: ``"joined"``: each image whole, as it flies; or ``"isaid-patches"``: patches of 896
            pixels that overlap by 384, as figures on iSAID are published.
        layout: segclip-deploy, loveda, uavid, isaid or mmseg; by default what is there decides.
        mask_suffix: what a mask's name has more than its image's: ``"_mask"``.
        bands: which bands of the images are red, green and blue, from 1.
        scale: of more than 8 bits: the values that become 0 and 255.
        ignore_alpha: an alpha band takes no pixel away.
        overlap: pixels that windows share; by default what ``export --frame`` chose, or a quarter.
        threads: of the CPU; 0: the engine's choice.
        device: of a checkpoint: ``"cpu"``, ``"cuda"``, or ``"auto"``, the default: the GPU where PyTorch
            finds one. An engine's device is its own.
        reliability: a reliability diagram to write (.png); the engine must output logits.
        report: told how far it is.

    Returns:
        IoU and boundary IoU by class, 0 to 1, and their means. Where the engine outputs logits, the expected
        calibration error of its probabilities, too: with its temperature and, if it has one, without.

    Raises:
        BadArtifact: the engine cannot run here.
        BadInput: a dataset or split that cannot be used; or a diagram of an engine without logits.
        MissingDependency: a checkpoint without torch, no GPU for ``device="cuda"``, or no matplotlib for a diagram.
        UsageError: a device for an engine.
    """
    check_choice("--layout", layout, LAYOUT_NAMES)
    check_choice("--protocol", protocol, PROTOCOL_NAMES)
    check_range("--threads", threads, 0)
    check_choice("--device", device, TORCH_DEVICES)
    if device is not None and not _is_checkpoint(Path(engine)):
        raise UsageError("--device is for a checkpoint in PyTorch; an engine has its own")
    from segclip_deploy.evaluation.dataset import open_dataset
    from segclip_deploy.evaluation.evaluate import evaluate as score_on
    from segclip_deploy.evaluation.reliability_diagram import check_diagram, draw_reliability
    from segclip_deploy.runtime.io.raster.source import Reading
    from segclip_deploy.runtime.open_engine import bundle_record_of

    path, diagram = Path(engine), optional_path(reliability)
    if diagram is not None:
        check_diagram(diagram)
    with _opened(path, overlap, threads, device or "auto") as segmenter:
        saying(report)(f"{engine} runs in {segmenter.backend.name}")
        data = open_dataset(
            dataset,
            segmenter.vocabulary,
            layout=layout,
            mask_suffix=mask_suffix,
            reading=Reading(bands, scale, ignore_alpha=ignore_alpha),
        )
        found = score_on(
            segmenter,
            data,
            data.choose_split(split, "val"),
            protocol=protocol,
            fit=None if _is_checkpoint(path) else bundle_record_of(path).temperature,
            with_confidence=diagram is not None,
            report=report,
        )
    if diagram is not None and found.confidence is not None:
        images = f"{len(found.scores.images)} images of split {found.split}"
        draw_reliability(found.confidence, diagram, title=f"{path.name}, {found.engine}\n{images}")
    return found


@contextmanager
def _opened(path: Path, overlap: int | None, threads: int, device: str) -> Iterator[Segmenter]:
    if not _is_checkpoint(path):
        from segclip_deploy.runtime.open_engine import open_segmenter

        with open_segmenter(path, overlap=overlap, threads=threads) as segmenter:
            yield segmenter
        return
    require("torch", why="running a checkpoint")
    from segclip_deploy.artifacts.bundle import InputSpec
    from segclip_deploy.export.torch_backend import open_checkpoint
    from segclip_deploy.model.compute import choose_device, repeatable
    from segclip_deploy.model.threads import torch_threads

    size, where = InputSpec(height=512, width=512), choose_device(device)
    with (
        torch_threads(threads),
        repeatable(where),
        open_checkpoint(path, size, overlap=overlap, device=where) as segmenter,
    ):
        yield segmenter


def _is_checkpoint(path: Path) -> bool:
    return path.suffix == ".safetensors"


def profile(
    engine: AnyPath,
    *,
    tiles: AnyPaths = (),
    out: AnyPath | None = None,
    samples: int = 200,
    soak: float | None = None,
    deadline_ms: float | None = None,
    cold: bool = False,
    overlap: int | None = None,
    threads: int = 0,
    target: str | None = None,
    report: Report = silent,
) -> ProfileRecord | LatencyTable:
    """Time an engine stage by stage and layer by layer, on this machine.

        api.profile("dubai.ov.onnx").ready.p99

    A folder that ``compact(probes=…)`` wrote is timed probe by probe. Its table, latency.json in ``out``, is
    what ``compact(latency=…)`` takes:

        api.profile("probes", out="board")

    Args:
        engine: an engine or a bundle, or a folder of probes.
        tiles: images and folders; by default the engine's golden tiles.
        out: a folder for profile.json and profile.png, or for latency.json.
        samples: frames, at least.
        soak: go on for so many seconds, to see it get hot.
        deadline_ms: count the misses, from the file to the label map.
        cold: also time the first label map of new processes.
        overlap: pixels that windows share; by default what ``export --frame`` chose, or a quarter.
        threads: of an engine on the CPU; 0: its choice.
        target: of probes, what times them; by default the first here that they are for.
        report: told how far it is.

    Raises:
        BadArtifact: the engine cannot run here.
        BadInput: images that cannot be used.
        UsageError: an unknown target, or one for an engine, which has its own.
    """
    check_range("--samples", samples, 10)
    check_above("--deadline-ms", deadline_ms, 0)
    check_range("--threads", threads, 0)
    check_target(target)
    from segclip_deploy.runtime.profiling.picture import draw_profile
    from segclip_deploy.runtime.profiling.profile import profile_engine
    from segclip_deploy.runtime.profiling.record import PROFILE
    from segclip_deploy.runtime.profiling.time_probes import is_probes, time_probes

    if is_probes(Path(engine)):
        table = time_probes(Path(engine), target, report)
        if out is not None:
            Path(out).mkdir(parents=True, exist_ok=True)
            LATENCY_TABLE.write(Path(out) / "latency.json", table)
        return table
    if target is not None:
        raise UsageError("--target is for a folder of probes; an engine has its own")
    found = profile_engine(
        Path(engine),
        paths_of(tiles),
        samples=samples,
        soak_s=soak or 0.0,
        overlap=overlap,
        threads=threads,
        deadline_ms=deadline_ms,
        cold=cold,
        report=report,
    )
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        PROFILE.write(folder / "profile.json", found)
        draw_profile(found, folder / "profile.png")
    return found


def compare(one: AnyPath, other: AnyPath, *, force: bool = False) -> Comparison:
    """Say how many times faster the other profile is than the one.

        api.compare("fp32/profile.json", "int8/profile.json").ratios["infer"].p50

    Args:
        one, other: files ``profile.json``.
        force: compare what was measured in unlike conditions.

    Raises:
        BadArtifact: a file is no profile.
        GateFailed: they were measured in unlike conditions.
    """
    from segclip_deploy.runtime.profiling.compare import compare as ratios_of
    from segclip_deploy.runtime.profiling.compare import load_profile

    return ratios_of(load_profile(Path(one)), load_profile(Path(other)), force=force)


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
