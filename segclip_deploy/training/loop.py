"""The training loop: OneCycle, EMA, validation at intervals, and resuming where it was killed."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.checkpoint_record import Training, TrainSettings, TuningParents
from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.errors import BadArtifact, BadInput, StaleArtifact, command
from segclip_deploy.evaluation.accuracy import score
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.export.graph import normalise
from segclip_deploy.export.torch_backend import torch_segmenter
from segclip_deploy.model.checkpoint import Checkpoint, example_tiles, save_checkpoint
from segclip_deploy.model.compute import autocast_of, repeatable
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import TextBank
from segclip_deploy.progress import Report, silent, stage
from segclip_deploy.training.augment import Crops
from segclip_deploy.training.crop_loader import Batch, Loading, open_batches
from segclip_deploy.training.image_cache import ImageCache
from segclip_deploy.training.losses import segmentation_loss

__all__ = ["Progress", "Trained", "Trainer", "one_cycle"]

_WARM_UP = 0.1  # share of the run the learning rate rises for


@dataclass(frozen=True)
class Progress:
    """What the loop reports after each step.

    Attributes:
        step: steps done.
        fraction: of the run, 0–1.
        loss: of this step.
        plan_miou: of the averaged model, where this step validated.
        best_miou: the best so far; −∞ before the first.
    """

    step: int
    fraction: float
    loss: float
    plan_miou: float | None
    best_miou: float


class Trained(nn.Module):
    """What the optimizer and the average see: the model, and the source of its class embeddings."""

    def __init__(self, model: SegCLIP, text: nn.Module) -> None:
        super().__init__()
        self.model, self.text = model, text


class Trainer:
    """One training run, resumable from ``OUT.resume``.

    Args:
        model: with the weights to start from.
        text: ``text()`` → class embeddings (K, D_t); its parameters, if any, are trained too.
        bank: the text bank the run starts from.
        dataset: with splits ``train`` and ``plan``; the best model on ``plan`` is kept.
        settings: how.
        out: the checkpoint to write.
        parents: what the run comes from; None for training from the start.
        int8: blocks whose weights are trained with the rounding.
        loading: how the training images are read; None: as usual.
        reading: told how many were, at the beginning.

    Raises:
        BadArtifact: ``OUT.resume`` is damaged.
        BadInput: ``out`` exists and no run is to be resumed: it would be overwritten.
        StaleArtifact: ``OUT.resume`` belongs to another run.
    """

    def __init__(
        self,
        model: SegCLIP,
        text: nn.Module,
        bank: TextBank,
        dataset: Dataset,
        settings: TrainSettings,
        out: Path,
        parents: TuningParents | None = None,
        int8: tuple[str, ...] = (),
        loading: Loading | None = None,
        reading: Report = silent,
    ) -> None:
        self.parents, self.int8 = parents, int8
        self.settings, self.dataset, self.bank, self.out = settings, dataset, bank, out
        self.resume_path = out.with_name(out.name + ".resume")
        self.device = settings.device
        self.trained = Trained(model, text)
        self.trained.to(self.device).to(memory_format=torch.channels_last)
        self.texts = torch.from_numpy(bank.texts).to(self.device)
        self.average = AveragedModel(
            self.trained, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True
        )
        encoder = list(model.encoder.parameters())
        known = {id(p) for p in encoder}
        rest = [p for p in self.trained.parameters() if p.requires_grad and id(p) not in known]
        rate = settings.learning_rate
        self.optimizer = torch.optim.AdamW(
            [
                {"params": encoder, "peak": rate * settings.encoder_rate},
                {"params": rest, "peak": rate},
            ],
            lr=rate,
            weight_decay=settings.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(self.device, enabled=settings.fp16)
        self.step, self.elapsed, self.best = 0, 0.0, -math.inf
        self.identity = {
            "settings": settings.to_json(),
            "spec": model.spec.to_json(),
            "text": hashlib.sha256(bank.classes.tobytes() + bank.texts.tobytes()).hexdigest(),
            "context": sum(p.numel() for p in text.parameters()),
            "reading": {"mask_suffix": dataset.mask_suffix, **asdict(dataset.reading)},
            "splits": {name: list(dataset.names(name)) for name in ("train", "plan")},
            "parents": parents.to_json() if parents else None,
            "int8": list(int8),
        }
        if self.resume_path.exists():
            self._resume()
        elif out.exists():
            raise BadInput("exists already", where=out, fix="choose another -o, or remove it")
        self.loading = loading or Loading()
        told = stage(reading, "reading images")
        images = ImageCache(dataset, "train", self.loading.cache_bytes, told)
        self.crops = Crops(images, settings.crop, settings.seed, settings.zoom)

    def run(self, report: Callable[[Progress], None]) -> None:
        """Train to the end; ``report`` is called after each step. Removes the resume point at the end."""
        settings = self.settings
        with (
            repeatable(self.device),
            open_batches(
                self.crops,
                self.step,
                batch=settings.batch,
                batches=settings.accumulate,
                loading=self.loading,
            ) as batches,
        ):
            self._run(batches, report)
        self.resume_path.unlink(missing_ok=True)

    def _run(self, batches: Iterator[Batch], report: Callable[[Progress], None]) -> None:
        settings = self.settings
        while self.fraction < 1:
            started = time.monotonic()
            loss = self._train_step([next(batches) for _ in range(settings.accumulate)])
            self.step += 1
            self.elapsed += time.monotonic() - started
            miou = None
            if self.step % settings.validate_every == 0 or self.fraction >= 1:
                miou = self._validate()
            if self.step % settings.save_every == 0:
                self._save()
            report(Progress(self.step, self.fraction, loss, miou, self.best))

    @property
    def fraction(self) -> float:
        """How much of the run is done, 0–1."""
        if self.settings.steps is not None:
            return min(1.0, self.step / self.settings.steps)
        assert self.settings.time_budget_s is not None
        return min(1.0, self.elapsed / self.settings.time_budget_s)

    def _train_step(self, batches: list[Batch]) -> float:
        factor = one_cycle(self.fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        spec = self.trained.model.spec
        parts = [self._counted(ground_truth) for _, ground_truth in batches]
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for (images, ground_truth), part in zip(batches, parts, strict=True):
            image = normalise(torch.from_numpy(images).to(self.device), spec.mean, spec.std)
            labels = torch.from_numpy(ground_truth).to(self.device).long()
            # A mean over what counts in this batch becomes one over what counts in all of them.
            loss = self._loss(image, labels) * (part / max(sum(parts), 1))
            if not torch.isfinite(loss):
                raise BadInput(
                    f"the loss is not finite at step {self.step}", fix="lower --learning-rate"
                )
            self.scaler.scale(loss).backward()
            total += loss.item()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update_parameters(self.trained)
        return total

    def _counted(self, ground_truth: NDArray[np.uint8]) -> int:
        """How many pixels of a batch its loss is the mean over."""
        return int((ground_truth != IGNORE_INDEX).sum())

    def _loss(self, image: Tensor, ground_truth: Tensor) -> Tensor:
        """Of normalised images (B, 3, H, W) and their ground truth (B, H, W)."""
        self.trained.train()
        with autocast_of(self.settings):
            output = self.trained.model.decode(image, self.trained.text(), self.texts)
        return segmentation_loss(output, ground_truth)

    def _validate(self) -> float:
        """Score the averaged model on ``plan``; keep it if it is the best so far."""
        averaged = cast("Trained", self.average.module)
        averaged.eval()
        with torch.inference_mode():
            bank = TextBank(
                averaged.text().cpu().numpy().copy(), self.bank.texts, self.bank.encoder
            )
        started = time.monotonic()
        model = averaged.model
        size = InputSpec(height=self.settings.window, width=self.settings.window)
        vocabulary = self.dataset.vocabulary
        with torch_segmenter(model, bank, vocabulary, size, logits=True) as segmenter:
            accuracy = score(segmenter, self.dataset.samples("plan"))
        self.elapsed += time.monotonic() - started
        miou = accuracy.confusion.miou
        if math.isnan(miou):
            raise BadInput("no labelled pixel in split 'plan'", where=self.dataset.root)
        if miou > self.best:
            self.best = miou
            training = Training(
                settings=self.settings,
                step=self.step,
                seconds=round(self.elapsed, 1),
                plan=accuracy.scores(),
                torch=str(torch.__version__),
                parents=self.parents,
                int8=self.int8,
            )
            save_checkpoint(
                self.out,
                Checkpoint(
                    spec=model.spec,
                    vocabulary=self.dataset.vocabulary,
                    bank=bank,
                    weights=model.state_dict(),
                    examples=example_tiles(s.frame for s in self.dataset.samples("plan")),
                    training=training,
                ),
            )
        return miou

    def _save(self) -> None:
        state = {
            "identity": self.identity,
            "step": self.step,
            "elapsed": self.elapsed,
            "best": self.best,
            "trained": self.trained.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        with replace_file(self.resume_path) as temporary:
            torch.save(state, temporary)

    def _resume(self) -> None:
        try:
            state = torch.load(self.resume_path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many types on damaged files
            raise BadArtifact(
                "not readable as a resume point",
                where=self.resume_path,
                fix=f"begin anew: {command('rm', self.resume_path)}",
            ) from error
        if state["identity"] != self.identity:
            raise StaleArtifact(
                "belongs to a run with other settings, model, text or images",
                where=self.resume_path,
                fix="repeat the same command to resume it, or begin anew: "
                + command("rm", self.resume_path),
            )
        self.trained.load_state_dict(state["trained"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.elapsed, self.best = state["step"], state["elapsed"], state["best"]


def one_cycle(fraction: float) -> float:
    """Learning rate as a share of its peak: linear rise, cosine fall (Smith & Topin, 2019).

    A function of the fraction done, not of a step count, so that a time budget can drive it.
    """
    if fraction < _WARM_UP:
        return 0.05 + 0.95 * fraction / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (fraction - _WARM_UP) / (1 - _WARM_UP))) + 1e-4
