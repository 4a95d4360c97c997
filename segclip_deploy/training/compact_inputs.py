"""What a run of ``compact`` begins with: images that have labels, and a latency table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.checkpoint_record import TrainSettings
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.latency_table import LATENCY_TABLE, LatencyTable
from segclip_deploy.errors import BadArtifact, BadInput, StaleArtifact, command
from segclip_deploy.evaluation.accuracy import score
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.export.graph import normalise
from segclip_deploy.export.torch_backend import torch_segmenter
from segclip_deploy.model.checkpoint import Checkpoint, build_model
from segclip_deploy.model.compute import repeatable
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.progress import Report
from segclip_deploy.runtime.profiling.time_probes import probe_target, time_probes
from segclip_deploy.training.augment import Crops
from segclip_deploy.training.compact_task import CompactionTask
from segclip_deploy.training.crop_loader import Loading, open_batches
from segclip_deploy.training.distill import label_tiles, with_tiles
from segclip_deploy.training.image_cache import ImageCache
from segclip_deploy.training.material import Material
from segclip_deploy.training.probe_networks import write_probes
from segclip_deploy.training.prunable import find_prunable_channels

__all__ = ["latency_of", "learned_from", "parent_labels", "plan_miou"]

_CROPS = 64  # that importance is read off


def learned_from(
    task: CompactionTask, checkpoint: Checkpoint, teacher: SegCLIP, folder: Path, report: Report
) -> Dataset:
    """The images of a run: labelled ones with others besides, or those that the parent labels.

    Raises:
        BadInput: an image that cannot be used.
    """
    data, images = task.material.dataset, task.material.images
    if data is not None:
        return with_tiles(data, images)
    device = task.settings.device
    with repeatable(device):
        return label_tiles(
            teacher.to(device),
            checkpoint,
            images,
            folder / "tiles",
            window=task.settings.window,
            reading=task.material.reading,
            report=report,
        )


def latency_of(
    task: CompactionTask, checkpoint: Checkpoint, folder: Path, report: Report
) -> LatencyTable:
    """The table that was given; else one that is measured here, once in a run.

    Raises:
        BadInput: the encoder cannot be pruned, or the target runs no probes.
        StaleArtifact: the table that was given is of another checkpoint, or of another size.
    """
    if task.latency is not None:
        return _checked(task, task.latency)
    path, spec = folder / "latency.json", task.spec
    with suppress(BadArtifact):  # there is none yet, or it is damaged: it is measured
        return LATENCY_TABLE.read(path, fix="")
    target = probe_target(task.target)
    target.require_here()
    model = build_model(checkpoint)
    report("writing probes", 0, 0)
    write_probes(
        model,
        checkpoint.bank,
        find_prunable_channels(model, spec.height, spec.width),
        spec,
        folder / "probes",
        checkpoint=sha256_file(task.source),
        scheme=target.scheme,
    )
    table = time_probes(folder / "probes", target.name, report)
    LATENCY_TABLE.write(path, table)
    return table


def plan_miou(
    model: SegCLIP, checkpoint: Checkpoint, dataset: Dataset, settings: TrainSettings
) -> float:
    """The mIoU of a model on split ``plan``, 0–1, as the distillation measures it.

    Raises:
        BadInput: no pixel is labelled there.
    """
    size = InputSpec(height=settings.window, width=settings.window)
    bank, vocabulary = checkpoint.bank, checkpoint.vocabulary
    with (
        repeatable(settings.device),
        torch_segmenter(
            model.to(settings.device), bank, vocabulary, size, logits=True
        ) as segmenter,
    ):
        miou = score(segmenter, dataset.samples("plan")).confusion.miou
    if miou != miou:  # not a number
        raise BadInput("no labelled pixel in split 'plan'", where=dataset.root)
    return float(miou)


def parent_labels(
    teacher: SegCLIP,
    checkpoint: Checkpoint,
    dataset: Dataset,
    settings: TrainSettings,
    material: Material,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised crops (B, 3, H, W) of the training images, and what the parent says of them (B, H, W)."""
    cache = (material.loading or Loading()).cache_bytes
    crops = Crops(ImageCache(dataset, "train", cache), settings.crop, settings.seed, settings.zoom)
    spec, device = checkpoint.spec, settings.device
    arrays = (checkpoint.bank.classes, checkpoint.bank.texts)
    classes, texts = (torch.from_numpy(array).to(device) for array in arrays)
    teacher = teacher.to(device)
    count = max(1, _CROPS // settings.batch)
    loading = Loading(workers=0)
    with open_batches(crops, 0, batch=settings.batch, batches=1, loading=loading) as batches:
        for pixels, _ in islice(batches, count):
            image = normalise(torch.from_numpy(pixels).to(device), spec.mean, spec.std)
            with torch.no_grad():
                labels = teacher(image, classes, texts).argmax(1)
            yield image, labels.repeat_interleave(4, 1).repeat_interleave(4, 2)


def _checked(task: CompactionTask, table: LatencyTable) -> LatencyTable:
    window = (task.spec.height, task.spec.width)
    measured, wanted = ("x".join(map(str, sides)) for sides in (table.window, window))
    options = ("--size", wanted, "--target", table.target)
    probes = command("segclip-deploy", "compact", task.source, "--probes", "DIR", *options)
    fix = f"{probes}, then segclip-deploy profile DIR -o FOLDER where it flies"
    if table.checkpoint != sha256_file(task.source):
        raise StaleArtifact(
            f"is of another checkpoint than {task.source}", where="--latency", fix=fix
        )
    if table.window != window:
        raise StaleArtifact(
            f"was measured at {measured}, not at {wanted}",
            where="--latency",
            fix=f"take --size {measured}, or {fix}",
        )
    return table
