"""``train --qat``: fine-tune a checkpoint so that it bears the rounding of a plan."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.checkpoint_record import TrainSettings, TuningParents
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.plan import PrecisionPlan, load_plan
from segclip_deploy.calibration.tiles import cut_tiles
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.export.graph import normalise
from segclip_deploy.model.checkpoint import Checkpoint, build_model, load_checkpoint
from segclip_deploy.model.compute import repeatable
from segclip_deploy.model.prompts import FixedText
from segclip_deploy.model.segclip import SegCLIP, SegOutput
from segclip_deploy.model.text import TextBank
from segclip_deploy.progress import Report, silent
from segclip_deploy.training.crop_loader import Loading
from segclip_deploy.training.fake_quant import FakeQuant, observe, operators_of
from segclip_deploy.training.loop import Progress, Trained, Trainer
from segclip_deploy.training.losses import AUXILIARY_WEIGHT

__all__ = ["FINE_TUNING", "distillation_loss", "fine_tune"]

FINE_TUNING: Mapping[str, Any] = {
    "learning_rate": 1e-4,
    "encoder_rate": 1.0,
    "weight_decay": 0.0,
    "ema": 0.95,
    "validate_every": 50,
}
"""What differs from training: small steps from weights that are good already, all of them alike."""

_TILES = 32  # ranges are read off
_FP16_ERROR = 1e-3  # banks are stored in half precision


def fine_tune(
    source: Path,
    plan_path: Path,
    dataset: Dataset,
    bank: TextBank,
    settings: TrainSettings,
    out: Path,
    *,
    loading: Loading | None = None,
    reading: Report = silent,
    report: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Quantization-aware training: an ordinary checkpoint whose weights bear being rounded.

    The FP32 model teaches (``distillation_loss``); the ground truth is not looked at. BatchNorm keeps its
    statistics: they are folded into the weights that INT8 rounds, and those of eight crops would
    move them at every step. The best on ``plan``, with rounding on, is kept.

    Args:
        source: the FP32 checkpoint.
        plan_path: which blocks are INT8; made for a bundle of this model.
        dataset: with splits ``train`` and ``plan``.
        bank: text embeddings of the dataset's vocabulary: the checkpoint's.
        settings: of the run; repeat them to resume a run that was killed.
        out: the checkpoint to write; its record names ``source`` and the plan.
        loading: how the training images are read; None: as usual.
        reading: told how many were, at the beginning.
        report: called after each step.

    Raises:
        BadArtifact: the plan names other blocks, or none of those that can be trained is INT8.
        BadInput: the dataset lacks a split, vocabulary or text are not the checkpoint's, or the
            loss is not finite.
        StaleArtifact: a resume point of other settings, or of another parent, is in the way.
    """
    for split in ("train", "plan"):
        if not dataset.names(split):
            raise BadInput(f"split {split!r} is empty", where=dataset.root)
    checkpoint, plan = load_checkpoint(source), load_plan(plan_path)
    if checkpoint.vocabulary != dataset.vocabulary:
        raise BadInput(
            f"was trained on vocabulary {checkpoint.vocabulary.name!r}, not as --vocabulary says",
            where=source,
            fix="give the vocabulary of the checkpoint",
        )
    shapes = bank.classes.shape == checkpoint.bank.classes.shape
    if not shapes or np.abs(bank.classes - checkpoint.bank.classes).max() > _FP16_ERROR:
        raise BadInput(
            "was trained with other text than --text says",
            where=source,
            fix="give the text bank of the checkpoint",
        )
    torch.manual_seed(settings.seed)
    model = build_model(checkpoint)
    _check_blocks(plan, model, plan_path)
    parents = TuningParents(checkpoint=sha256_file(source), plan=sha256_file(plan_path))
    tuner = FineTuner(model, checkpoint, plan, dataset, settings, out, parents, loading, reading)
    tuner.run(report)


def distillation_loss(student: SegOutput, teacher: SegOutput) -> Tensor:
    """KL(teacher ‖ student) over classes, the mean over pixels; that of each CFF score map besides.

    KL(z_t ‖ z_s) + λ/L Σ_l KL(S_t,l ‖ S_s,l), with softmax over K of logits z and score maps S, and
    the λ that ``segmentation_loss`` weighs score maps by (Hinton et al., 2015, temperature 1).
    """
    loss = _divergence(student.logits, teacher.logits)
    if student.scores:
        pairs = zip(student.scores, teacher.scores, strict=True)
        maps = [_divergence(ours, theirs) for ours, theirs in pairs]
        loss = loss + AUXILIARY_WEIGHT * torch.stack(maps).mean()
    return loss


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    ours, theirs = student.log_softmax(1), teacher.log_softmax(1)
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1).mean()


class FineTuner(Trainer):
    """A training run under fake quantization; everything else is as in ``Trainer``."""

    def __init__(
        self,
        model: SegCLIP,
        checkpoint: Checkpoint,
        plan: PrecisionPlan,
        dataset: Dataset,
        settings: TrainSettings,
        out: Path,
        parents: TuningParents,
        loading: Loading | None = None,
        reading: Report = silent,
    ) -> None:
        self.teacher = copy.deepcopy(model).requires_grad_(False)
        self.plan = plan
        bank = checkpoint.bank
        int8 = tuple(name for name, precision in plan.blocks.items() if precision == "int8")
        super().__init__(
            model,
            FixedText(bank),
            bank,
            dataset,
            settings,
            out,
            parents,
            int8,
            loading,
            reading,
        )
        spec = model.spec
        tiles = _tiles(dataset, settings.window)
        images = (normalise(tile.to(self.device), spec.mean, spec.std) for tile in tiles)
        self.teacher.to(self.device)
        with repeatable(self.device):
            self.ranges = observe(self.teacher, plan, self._teach, images)

    def _counted(self, ground_truth: NDArray[np.uint8]) -> int:
        return ground_truth.size  # the teacher has an opinion of every pixel

    def _loss(self, image: Tensor, ground_truth: Tensor) -> Tensor:
        del ground_truth
        self.trained.eval()
        with torch.no_grad():
            wanted = self._teach(image)
        model = self.trained.model
        with FakeQuant(model, self.plan, self.ranges):
            output = model.decode(image, self.trained.text(), self.texts)
        return distillation_loss(output, wanted)

    def _validate(self) -> float:
        averaged = cast("Trained", self.average.module).model
        with FakeQuant(averaged, self.plan, self.ranges):
            return super()._validate()

    def _teach(self, image: Tensor) -> SegOutput:
        return self.teacher.decode(image, self.trained.text(), self.texts)


def _check_blocks(plan: PrecisionPlan, model: SegCLIP, where: Path) -> None:
    """Accept a plan that knows the blocks of this model and has one of them in INT8."""
    own = list(dict.fromkeys(operators_of(model).values()))
    for name in own:
        if name not in plan.blocks:
            raise BadArtifact(
                f"made for another model: it does not name {name}",
                where=where,
                fix="segclip-deploy export CKPT -o BUNDLE, then plan BUNDLE",
            )
    known = {*own, *(name for name in plan.blocks if not name.startswith(("encoder.", "decoder.")))}
    for name in plan.blocks:
        if name not in known:
            raise BadArtifact(
                f"made for another model: this one has no block {name}",
                where=where,
                fix="segclip-deploy export CKPT -o BUNDLE, then plan BUNDLE",
            )
    if not any(plan.blocks[name] == "int8" for name in own):
        raise BadArtifact(
            "has no int8 block that can be trained for it",
            where=where,
            fix=f"write int8 for one of {', '.join(own)}",
        )


def _tiles(dataset: Dataset, size: int) -> Iterator[Tensor]:
    """Some tiles from all over the training split, as the network takes them."""
    spec = InputSpec(size, size)
    paths = [dataset.image(name) for name in dataset.names("train")]
    counts = [sum(1 for _ in cut_tiles(path, spec, dataset.open_windows)) for path in paths]
    # Cut twice: all tiles of a large set would not fit into memory.
    wanted = np.linspace(0, sum(counts) - 1, min(_TILES, sum(counts))).astype(int)
    before = 0
    for path, count in zip(paths, counts, strict=True):
        here = set(wanted - before)
        if here.intersection(range(count)):
            for index, (_, pixels) in enumerate(cut_tiles(path, spec, dataset.open_windows)):
                if index in here:
                    yield torch.from_numpy(pixels[None])
        before += count
