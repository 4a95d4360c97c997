"""Distillation: a pruned network learns what its parent says, of labelled and of unlabelled images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.checkpoint_record import TrainSettings
from segclip_deploy.artifacts.files import replace_directory
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.evaluation.dataset import MAX_MEGAPIXELS, Dataset, Sample, open_dataset
from segclip_deploy.export.torch_backend import torch_segmenter
from segclip_deploy.model.checkpoint import Checkpoint
from segclip_deploy.model.compute import autocast_of
from segclip_deploy.model.prompts import FixedText
from segclip_deploy.model.segclip import SegCLIP, SegOutput
from segclip_deploy.progress import Report, silent
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.io.pictures import read_picture
from segclip_deploy.runtime.io.raster.source import Reading
from segclip_deploy.training.crop_loader import Loading
from segclip_deploy.training.loop import Trainer
from segclip_deploy.training.losses import segmentation_loss
from segclip_deploy.training.qat import distillation_loss

__all__ = ["DISTILLATION", "Distiller", "WithTiles", "feature_loss", "label_tiles", "with_tiles"]

DISTILLATION: Mapping[str, Any] = {
    "learning_rate": 1.5e-3,
    "encoder_rate": 1.0,
    "ema": 0.98,
    "validate_every": 100,
}
"""What differs from training: the encoder has been cut, and learns as fast as the rest."""

_LABELS_WEIGHT = 0.5
_PLAN_SHARE = 10  # one unlabelled image of so many is held out
_TILES = "tiles."  # before the names of unlabelled images


@dataclass(frozen=True)
class WithTiles(Dataset):
    """A dataset that has unlabelled images in its split ``train``, too.

    Attributes:
        tiles: their files, by name.
    """

    tiles: Mapping[str, Path] = field(default_factory=dict)

    def names(self, split: str) -> tuple[str, ...]:
        """As of ``Dataset``."""
        own = super().names(split)
        return (*own, *self.tiles) if split == "train" else own

    def read(self, name: str) -> Sample:
        """As of ``Dataset``; of an unlabelled image everything is ignored."""
        if name not in self.tiles:
            return super().read(name)
        frame = read_picture(self.tiles[name], self.reading, max_megapixels=MAX_MEGAPIXELS)
        nothing = np.full(frame.pixels.shape[:2], IGNORE_INDEX, dtype=np.uint8)
        return Sample(name, frame, nothing)


def with_tiles(dataset: Dataset, images: Sequence[Path]) -> Dataset:
    """A dataset with unlabelled images besides."""
    if not images:
        return dataset
    return WithTiles(
        dataset.root,
        dataset.vocabulary,
        dataset.index,
        dataset.mask_suffix,
        dataset.reading,
        {f"{_TILES}{index}.{image.stem}": image for index, image in enumerate(images)},
    )


def label_tiles(
    teacher: SegCLIP,
    checkpoint: Checkpoint,
    images: Sequence[Path],
    out: Path,
    *,
    window: int,
    reading: Reading,
    report: Report = silent,
) -> Dataset:
    """A dataset of unlabelled images, whose masks are what the teacher says; every tenth is split ``plan``.

    Args:
        teacher: in evaluation mode, on the device that computes.
        images: files, two at least.
        out: the folder to write; one that is there is taken as it is.
        window: side of the teacher's windows, pixels.
        reading: what of the images' values is red, green and blue.

    Raises:
        BadInput: an image that cannot be used.
    """
    if not out.exists():
        size = InputSpec(height=window, width=window)
        classes = [entry.mask_value for entry in checkpoint.vocabulary.classes]
        values = np.full(IGNORE_INDEX + 1, classes[0], np.uint8)  # alpha tells what is not valid
        values[: len(classes)] = classes
        splits: dict[str, list[str]] = {"plan": [], "train": []}
        with (
            replace_directory(out, contents=()) as folder,
            torch_segmenter(
                teacher, checkpoint.bank, checkpoint.vocabulary, size, logits=True
            ) as segmenter,
        ):
            (folder / "images").mkdir()
            (folder / "masks").mkdir()
            for index, image in enumerate(images):
                report("labelling tiles", index, len(images))
                frame = read_picture(image, reading, max_megapixels=MAX_MEGAPIXELS)
                labels, name = segmenter.segment(frame).labels, f"{index}.{image.stem}"
                Image.fromarray(_with_alpha(frame)).save(folder / "images" / f"{name}.png")
                Image.fromarray(values[labels]).save(folder / "masks" / f"{name}.png")
                splits["train" if index % _PLAN_SHARE else "plan"].append(name)
            (folder / "split.json").write_text(json.dumps(splits), encoding="utf-8")
    return open_dataset(out, checkpoint.vocabulary, reading=Reading(bands=(1, 2, 3)))


def _with_alpha(frame: Frame) -> NDArray[np.uint8]:
    """Pixels (H, W, 3), or (H, W, 4) with 0 where they are not valid."""
    if frame.valid is None:
        return frame.pixels
    return np.dstack([frame.pixels, frame.valid.astype(np.uint8) * 255])


class Distiller(Trainer):
    """A training run of a pruned network whose teacher is its parent; otherwise as ``Trainer``.

    The loss is ``distillation_loss`` and ``feature_loss`` of every pixel, and half of ``segmentation_loss``
    of the labelled ones.

    Args:
        student: the pruned network.
        teacher: its parent.
        checkpoint: the parent's.
        dataset: with splits ``train`` and ``plan``; the best on ``plan`` is kept.
        settings: of the run.
        out: the checkpoint to write.
        labelled: whether the dataset's masks are more than the teacher's own labels.
        loading, reading: as of ``Trainer``.
    """

    def __init__(
        self,
        student: SegCLIP,
        teacher: SegCLIP,
        checkpoint: Checkpoint,
        dataset: Dataset,
        settings: TrainSettings,
        out: Path,
        *,
        labelled: bool,
        loading: Loading | None = None,
        reading: Report = silent,
    ) -> None:
        bank = checkpoint.bank
        super().__init__(
            student, FixedText(bank), bank, dataset, settings, out, loading=loading, reading=reading
        )
        self.labelled = labelled
        self.teacher = teacher.requires_grad_(False).eval().to(self.device)

    def _counted(self, ground_truth: NDArray[np.uint8]) -> int:
        return ground_truth.size  # the teacher has an opinion of every pixel

    def _loss(self, image: Tensor, ground_truth: Tensor) -> Tensor:
        self.trained.train()
        text = self.trained.text()
        with autocast_of(self.settings):
            with torch.no_grad():
                wanted = self.teacher.decode(image, text, self.texts)
            output = self.trained.model.decode(image, text, self.texts)
        loss = distillation_loss(output, wanted) + feature_loss(output, wanted)
        if self.labelled:
            loss = loss + _LABELS_WEIGHT * segmentation_loss(output, ground_truth)
        return loss


def feature_loss(student: SegOutput, teacher: SegOutput) -> Tensor:
    """How far the encoder's maps are from the teacher's: 1/L Σ_l ‖f_s,l − f_t,l‖² / ‖f_t,l‖², a scalar.

    Pruning leaves the width of these maps as it was, so they are compared as they are (the hints of
    Romero et al., ICLR 2015, without a regressor). What a student has of them carries over to other ground.
    """
    pairs = zip(student.features, teacher.features, strict=True)
    floats = [(ours.float(), theirs.float()) for ours, theirs in pairs]
    errors = [(ours - theirs).square().mean() / theirs.square().mean() for ours, theirs in floats]
    return torch.stack(errors).mean()
