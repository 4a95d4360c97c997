"""Prepare: ``compact``, which makes a smaller checkpoint of one."""

from __future__ import annotations

from collections.abc import Sequence
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
    paths_of,
)
from segclip_deploy.errors import UsageError
from segclip_deploy.evaluation.choices import LAYOUT_NAMES
from segclip_deploy.progress import Report, saying, silent

if TYPE_CHECKING:
    from segclip_deploy.artifacts.latency_table import ProbeSet
    from segclip_deploy.training.compact_result import Compacted

__all__ = ["compact"]

_SIZE = (512, 512)
_ROUNDS = 2


def compact(
    checkpoint: AnyPath,
    *,
    out: AnyPath | None = None,
    dataset: AnyPath | None = None,
    tiles: AnyPaths = (),
    layout: str | None = None,
    mask_suffix: str = "",
    bands: tuple[int, int, int] | None = None,
    scale: tuple[float, float] | None = None,
    ignore_alpha: bool = False,
    max_miou_drop: float | None = None,
    speed_up: float | None = None,
    max_latency_ms: float | None = None,
    family: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
    target: str | None = None,
    latency: AnyPath | None = None,
    probes: AnyPath | None = None,
    rounds: int | None = None,
    time_budget: float | None = None,
    steps: int | None = None,
    crop: int = 256,
    batch: int = 8,
    learning_rate: float = 0.0015,
    device: str = "auto",
    bf16: bool = False,
    seed: int = 0,
    threads: int | None = None,
    workers: int | None = None,
    cache_gb: float = 1.0,
    report: Report = silent,
) -> Compacted | ProbeSet:
    """Prune a checkpoint's network and distil it, in rounds, until it is as fast as was asked for.

    The same call goes on where a killed one stopped. The result is an ordinary checkpoint.

        api.compact("model.safetensors", dataset="dubai", out="small.safetensors", speed_up=1.5,
                    time_budget=600)

    Latencies are measured here, unless another machine's are given:

        api.compact("model.safetensors", probes="probes")  # copy it to the board, and there:
        api.profile("probes", out="board")                 # copy board/latency.json back:
        api.compact("model.safetensors", dataset="dubai", out="small.safetensors", speed_up=1.5,
                    time_budget=600, latency="board/latency.json")

    Args:
        checkpoint: of a SegCLIP; it is not changed, and teaches.
        out: the checkpoint to write (.safetensors); of a family, a folder.
        dataset: of any layout (docs/how-to/datasets.md), with splits ``train`` and ``plan``. Split ``val`` is not read.
        tiles: unlabelled images and folders, which teach besides the dataset, or alone.
        layout: segclip-deploy, loveda, uavid, isaid or mmseg; by default what is there decides.
        mask_suffix: what a mask's name has more than its image's: ``"_mask"``.
        bands: which bands of the images, and of the tiles, are red, green and blue, from 1.
        scale: of more than 8 bits: the values that become 0 and 255.
        ignore_alpha: an alpha band takes no pixel away.
        max_miou_drop: points of mIoU on ``plan`` that may go; as fast as that allows. With ``tiles`` alone
            it is the agreement with the checkpoint.
        speed_up: or: times as many frames a second.
        max_latency_ms: or: milliseconds of one inference.
        family: or: several networks, by their time in parts of the checkpoint's: ``(0.75, 0.5, 0.35)``. ``out`` is
            then a folder, with ``0.75.safetensors`` and so on. Each is pruned from the one before.
        size: (height, width) of the input that is timed, pixels; by default 512 × 512.
        target: that times networks here, as ``doctor`` lists them; by default the first that takes ONNX
            files as they are. Of ``probes``: what they are for, which need not be here.
        latency: a table that ``profile`` made of probes of this checkpoint at this size.
        probes: write a folder of probes for ``profile``, and do nothing else.
        rounds: of pruning and distillation, where one time is asked for, by default 2. A family has one for each
            network, and a loss as many as it allows.
        time_budget: distil for so many seconds in each round; the learning rate follows the clock.
        steps: or for so many steps, which can be repeated.
        crop: side of training crops, pixels.
        batch: crops that are in the network at once.
        learning_rate: at its peak.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``: the GPU where PyTorch finds one.
        bf16: bfloat16 autocast.
        seed: of everything that is drawn.
        threads: of the CPU; by default all. Part of what repeats a run.
        workers: processes that read images, as of ``train``.
        cache_gb: decoded images that are kept in memory, GB, over all processes.
        report: told how far it is.

    Returns:
        what was made, with the times and the mIoU of every round; or the probes.

    Raises:
        BadInput: a time or a drop that cannot be reached, with the nearest that can; images that cannot be used.
        MissingDependency: no torch, torch-pruning, or runtime that times networks.
        StaleArtifact: a run of other settings was stopped there; a table of another checkpoint.
        UsageError: arguments that do not go together.
    """
    check_choice("--layout", layout, LAYOUT_NAMES)
    check_above("--max-miou-drop", max_miou_drop, 0)
    check_above("--speed-up", speed_up, 1)
    check_above("--max-latency-ms", max_latency_ms, 0)
    check_range("--rounds", rounds, 1)
    check_range("--steps", steps, 1)
    check_above("--time-budget", time_budget, 0)
    check_range("--crop", crop, 32)
    check_above("--learning-rate", learning_rate, 0)
    check_range("--batch", batch, 2)
    check_choice("--device", device, TORCH_DEVICES)
    check_range("--threads", threads, 1)
    check_range("--workers", workers, 0)
    check_range("--cache-gb", cache_gb, 0)
    check_target(target)
    goals = {
        "--max-miou-drop": max_miou_drop,
        "--speed-up": speed_up,
        "--max-latency-ms": max_latency_ms,
        "--family": family,
    }
    given = [option for option, value in goals.items() if value is not None]
    if probes is not None:
        others = {
            "--out": out,
            "--dataset": dataset,
            "--tiles": tiles or None,
            "--latency": latency,
            "--rounds": rounds,
            "--time-budget": time_budget,
            "--steps": steps,
        }
        given += [option for option, value in others.items() if value is not None]
        if given:
            raise UsageError(f"--probes does nothing else, and takes no {given[0]}")
        return _write_probes(Path(checkpoint), Path(probes), size or _SIZE, target)
    if len(given) != 1:
        raise UsageError(f"give one of {', '.join(list(goals)[:-1])} and {list(goals)[-1]}")
    if out is None:
        raise UsageError("give the checkpoint to write: -o CKPT")
    images = paths_of(tiles)
    if dataset is None and not images:
        raise UsageError("give images to learn from: --dataset, --tiles, or both")
    for option, value in {"--layout": layout, "--mask-suffix": mask_suffix}.items():
        if dataset is None and value:
            raise UsageError("tiles alone have no masks; it is of --dataset", where=option)
    if rounds is not None and given[0] in ("--family", "--max-miou-drop"):
        raise UsageError(f"{given[0]} decides how many there are", where="--rounds")
    if (time_budget is None) == (steps is None):
        raise UsageError("give either --time-budget or --steps, of a round")
    if latency is not None and target is not None:
        raise UsageError("--target is for times measured here; --latency brings its own")
    require("torch", why="compact")
    from segclip_deploy.artifacts.bundle import InputSpec
    from segclip_deploy.artifacts.checkpoint_record import TrainSettings
    from segclip_deploy.artifacts.latency_table import LATENCY_TABLE
    from segclip_deploy.evaluation.dataset import open_dataset
    from segclip_deploy.model.checkpoint import load_checkpoint
    from segclip_deploy.model.compute import choose_device
    from segclip_deploy.model.threads import torch_threads
    from segclip_deploy.runtime.io.raster.source import Reading
    from segclip_deploy.training.compact import compact as make_compact
    from segclip_deploy.training.compact_task import CompactionGoal, CompactionTask
    from segclip_deploy.training.crop_loader import Loading
    from segclip_deploy.training.distill import DISTILLATION
    from segclip_deploy.training.loop import Progress
    from segclip_deploy.training.material import Material

    height, width = size or _SIZE
    reading, data = Reading(bands, scale, ignore_alpha=ignore_alpha), None
    if dataset is not None:
        data = open_dataset(
            dataset,
            load_checkpoint(checkpoint).vocabulary,
            layout=layout,
            mask_suffix=mask_suffix,
            reading=reading,
        )
    settings = TrainSettings(
        steps=steps,
        time_budget_s=time_budget,
        crop=crop,
        batch=batch,
        bf16=bf16,
        seed=seed,
        device=choose_device(device),
        **{**DISTILLATION, "learning_rate": learning_rate},
    )
    table = None
    if latency is not None:
        table = LATENCY_TABLE.read(Path(latency), fix="segclip-deploy profile PROBES -o FOLDER")
    say = saying(report)

    def tell(now: Progress) -> None:
        report(f"distilling, loss {now.loss:.3f}, percent", int(100 * now.fraction), 100)
        if now.plan_miou is not None:
            what = "agreement" if data is None else "plan mIoU"
            say(f"step {now.step}: {what} {now.plan_miou:.4f} (best {now.best_miou:.4f})")

    task = CompactionTask(
        Path(checkpoint),
        Path(out),
        Material(data, images, Loading(workers, int(cache_gb * 1e9)), reading),
        CompactionGoal(
            max_miou_drop=max_miou_drop,
            speed_up=speed_up,
            max_latency_ms=max_latency_ms,
            family=None if family is None else tuple(family),
        ),
        settings,
        InputSpec(height=height, width=width),
        target,
        table,
        rounds or _ROUNDS,
    )
    with torch_threads(threads):
        return make_compact(task, report=report, told=tell)


def _write_probes(
    checkpoint: Path, out: Path, size: tuple[int, int], target: str | None
) -> ProbeSet:
    """The probes of a checkpoint, for a target that runs on CPUs, or another."""
    require("torch", why="compact")
    from segclip_deploy.artifacts.bundle import InputSpec
    from segclip_deploy.artifacts.files import sha256_file
    from segclip_deploy.model.checkpoint import build_model, load_checkpoint
    from segclip_deploy.runtime.profiling.time_probes import probe_target
    from segclip_deploy.training.probe_networks import write_probes
    from segclip_deploy.training.prunable import find_prunable_channels

    trained = load_checkpoint(checkpoint)
    model = build_model(trained)
    return write_probes(
        model,
        trained.bank,
        find_prunable_channels(model, *size),
        InputSpec(height=size[0], width=size[1]),
        out,
        checkpoint=sha256_file(checkpoint),
        scheme=probe_target(target).scheme,
    )
