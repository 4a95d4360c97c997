"""``train``: from a dataset and a text bank to a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from segclip_deploy.artifacts.checkpoint_record import TrainSettings
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.model.encoders import encoder_normalisation, load_imagenet
from segclip_deploy.model.network import try_network
from segclip_deploy.model.prompts import ContextPrompts, FixedText
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import TextBank, load_open_clip
from segclip_deploy.progress import Report, silent
from segclip_deploy.training.crop_loader import Loading
from segclip_deploy.training.loop import Progress, Trainer

__all__ = ["new_spec", "train"]


def new_spec(vocabulary: Vocabulary, bank: TextBank, *, encoder: str, width: int) -> ModelSpec:
    """The spec of a model for a vocabulary and a text bank; ``encoder`` as ``timm:NAME``, ``width`` C.

    Raises:
        BadInput: there is no such encoder.
    """
    mean, std = encoder_normalisation(encoder)
    return ModelSpec(
        classes=len(vocabulary.classes),
        text_width=bank.classes.shape[1],
        encoder=encoder,
        width=width,
        mean=mean,
        std=std,
    )


def train(
    dataset: Dataset,
    bank: TextBank,
    spec: ModelSpec,
    settings: TrainSettings,
    out: Path,
    *,
    imagenet: bool = True,
    context_tokens: int = 0,
    loading: Loading | None = None,
    reading: Report = silent,
    report: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Train a SegCLIP and keep, in ``out``, the averaged weights that were best on ``plan``.

    Args:
        dataset: with splits ``train`` and ``plan``.
        bank: text embeddings of the dataset's vocabulary.
        spec: of the model.
        settings: of the run; repeat them to resume a run that was killed.
        imagenet: start the encoder from ImageNet weights.
        context_tokens: learnable vectors in front of the class words; needs a bank made by
            ``open_clip:MODEL@WEIGHTS``, whose text tower they are trained through.
        loading: how the training images are read; None: as usual.
        reading: told how many were, at the beginning.
        report: called after each step.

    Raises:
        BadInput: the dataset lacks a split, the text cannot have learnable context, or the encoder
            takes no images of the size of a crop.
        StaleArtifact: a resume point of other settings is in the way.
    """
    for split in ("train", "plan"):
        if not dataset.names(split):
            raise BadInput(f"split {split!r} is empty", where=dataset.root)
    torch.manual_seed(settings.seed)
    model = SegCLIP(spec)
    try_network(model, bank, settings.crop, settings.crop, where="--crop")
    if imagenet:
        load_imagenet(model.encoder, spec.encoder)
    text = _context(dataset, bank, context_tokens) if context_tokens else FixedText(bank)
    trainer = Trainer(model, text, bank, dataset, settings, out, loading=loading, reading=reading)
    trainer.run(report)


def _context(dataset: Dataset, bank: TextBank, count: int) -> nn.Module:
    kind, _, rest = bank.encoder.partition(":")
    if kind != "open_clip":
        raise BadInput(
            f"learnable context is trained through the text encoder, and this bank is stored "
            f"({bank.encoder})",
            where="--context-tokens",
            fix="give --text open_clip:MODEL@WEIGHTS",
        )
    name, _, weights = rest.partition("@")
    clip, tokenizer = load_open_clip(name, weights)
    return ContextPrompts(clip, tokenizer, dataset.vocabulary, count)
