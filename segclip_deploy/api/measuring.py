"""Measure: ``evaluate``, ``profile`` and ``compare``."""

from __future__ import annotations

from collections.abc import Iterator
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
from segclip_deploy.errors import UsageError
from segclip_deploy.evaluation.choices import LAYOUT_NAMES, PROTOCOL_NAMES, ProtocolName
from segclip_deploy.progress import Report, saying, silent

if TYPE_CHECKING:
    from segclip_deploy.evaluation.evaluate import Evaluation
    from segclip_deploy.runtime.inference.segmenter import Segmenter
    from segclip_deploy.runtime.profiling.compare import Comparison
    from segclip_deploy.runtime.profiling.record import ProfileRecord

__all__ = ["compare", "evaluate", "profile"]


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
