"""What a checkpoint's metadata says: the model, its classes, and how it was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.records import Format, Record
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadInput

__all__ = [
    "CHECKPOINT",
    "CheckpointRecord",
    "Compaction",
    "Scores",
    "TrainSettings",
    "Training",
    "TuningParents",
]


class TrainSettings(Record, frozen=True):
    """How to train.

    Attributes:
        steps: length of the run; None where ``time_budget_s`` sets it.
        time_budget_s: seconds of training, over all resumptions; the schedule follows the clock.
        crop: side of the training crops, pixels.
        batch: crops that are in the network at once.
        learning_rate: peak, of new layers; the encoder gets ``encoder_rate`` times that.
        weight_decay: of AdamW.
        ema: decay of the averaged weights, which are the ones validated and kept.
        validate_every: steps between validations.
        save_every: steps between resume points.
        bf16: run the network under bfloat16 autocast: about twice as fast where the processor
            has it (AVX-512 BF16, AMX), slower elsewhere.
        window: side of the windows in validation, pixels.
        seed: of initialisation and augmentation.
        device: that computed. Another one rounds otherwise, so it is part of what repeats a run.
        fp16: run the network under float16 autocast, with gradients scaled so that small ones
            are not lost; on a GPU only.
        accumulate: batches per step; the step is that of one batch of all their crops, but for
            BatchNorm, which sees one at a time.
        zoom: least and greatest factor that training crops are scaled by; drawn log-uniformly.

    Raises:
        BadInput: neither steps nor a time budget, or both; sides that are no multiples of 32; both half
            precisions, or float16 on a CPU; a zoom whose least factor is the greater, or not above 0.
    """

    steps: int | None = None
    time_budget_s: float | None = None
    crop: int = 256
    batch: int = 8
    learning_rate: float = 2e-3
    encoder_rate: float = 0.25
    weight_decay: float = 0.02
    ema: float = 0.99
    validate_every: int = 200
    save_every: int = 50
    bf16: bool = False
    window: int = 512
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    fp16: bool = False
    accumulate: int = 1
    zoom: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.time_budget_s is None):
            raise BadInput("a run is given either steps or a time budget")
        if self.crop % 32 or self.window % 32:
            raise BadInput(f"crop {self.crop} and window {self.window} must be multiples of 32")
        if self.fp16 and self.bf16:
            raise BadInput("a run is in float16 or in bfloat16, not in both")
        if self.fp16 and self.device == "cpu":
            raise BadInput("float16 is for a GPU", fix="on a CPU take bfloat16")
        least, most = self.zoom
        if not 0 < least <= most < math.inf:
            raise BadInput(f"zoom {least:g} to {most:g} is no range of factors")


class Scores(Record, frozen=True):
    """Accuracy on labelled images, in shares of 1; None where nothing of a class occurs.

    Attributes:
        miou: mean of the IoUs.
        pixel_accuracy: share of labelled pixels that are right.
        iou: by class.
        pixels: how many were labelled.
        boundary_iou: by class.
        images: names.
    """

    miou: float | None
    pixel_accuracy: float | None
    iou: Mapping[str, float | None]
    pixels: int
    boundary_iou: Mapping[str, float | None]
    images: tuple[str, ...]


class TuningParents(Record, frozen=True):
    """SHA-256 of what a fine-tuned model was made from.

    Attributes:
        checkpoint: the FP32 model's.
        plan: of the plan whose rounding it was trained with.
    """

    checkpoint: str
    plan: str


class Training(Record, frozen=True):
    """How weights came to be.

    Attributes:
        settings: of the run.
        step: the one whose averaged weights were kept.
        seconds: of training, up to that step.
        plan: scores on split ``plan``, at that step.
        torch: version.
        parents: None where it was trained from the start.
        int8: blocks whose weights were trained with the rounding.
    """

    settings: TrainSettings
    step: int
    seconds: float
    plan: Scores
    torch: str
    parents: TuningParents | None = None
    int8: tuple[str, ...] = ()


class Compaction(Record, frozen=True):
    """What ``compact`` made smaller, and what that bought.

    Attributes:
        parent: SHA-256 of the checkpoint that was pruned, and that taught.
        engine: what the milliseconds were measured in, with its version and precision.
        window: height and width of the image that they are for, pixels.
        parent_ms: median of the parent's inference.
        ms: median of this network's, in turns with the parent's; where not ``measured``, an estimate of the table's.
        measured: whether this network was timed. It is not where the latency table is another machine's.
        load: load average of the machine that they were measured on; None where it has none.
        multiple: inner channel counts are multiples of it.
        rounds: of pruning and distillation.
        parent_miou: of the parent on split ``plan``, 0–1; None where only its own labels were there.
        labels: ``"dataset"``, or ``"parent"`` where the images had none: then the mIoU on ``plan``, in
            ``Training``, is the agreement with the parent.
    """

    parent: str
    engine: str
    window: tuple[int, int]
    parent_ms: float
    ms: float
    measured: bool
    load: float | None
    multiple: int
    rounds: int
    parent_miou: float | None
    labels: Literal["dataset", "parent"]


class CheckpointRecord(Record, frozen=True):
    """What a checkpoint is and comes from.

    Attributes:
        model: rebuilds the module.
        vocabulary: the classes.
        text_encoder: what embedded their texts.
        training: None for imported weights.
        imported: name of the file that the weights were imported from; None for trained ones.
        compaction: None where nothing was pruned.
    """

    model: ModelSpec
    vocabulary: Vocabulary
    text_encoder: str
    training: Training | None = None
    imported: str | None = None
    compaction: Compaction | None = None


def _of_schema_1(data: dict[str, Any]) -> dict[str, Any]:
    """Call the spec as a bundle does, and tell training from import."""
    training = {**data.pop("training")}
    data["model"] = data.pop("spec")
    data["imported"] = training.pop("imported", None)
    data["training"] = training or None
    return data


def _of_schema_2(data: dict[str, Any]) -> dict[str, Any]:
    """Say of a training what there was no choice of: on a CPU, a batch a step."""
    if training := data.get("training"):
        settings = {**training["settings"], "device": "cpu", "fp16": False, "accumulate": 1}
        data["training"] = {**training, "settings": settings}
    return data


def _of_schema_3(data: dict[str, Any]) -> dict[str, Any]:
    """Say that nothing was pruned: there was no ``compact``."""
    return {**data, "model": {**data["model"], "channels": {}}, "compaction": None}


CHECKPOINT = Format(
    "a checkpoint",
    CheckpointRecord,
    schema=4,
    migrations={1: _of_schema_1, 2: _of_schema_2, 3: _of_schema_3},
)
"""How a checkpoint's metadata is written and read."""
