"""Checkpoints: one safetensors file with weights, ModelSpec, vocabulary and TextBank; no pickle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segclip_deploy._optional import require
from segclip_deploy.artifacts.checkpoint_record import (
    CHECKPOINT,
    CheckpointRecord,
    Compaction,
    Training,
)
from segclip_deploy.artifacts.files import UNREADABLE, parse_json, replace_file
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadArtifact, BadInput, command
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import TextBank
from segclip_deploy.runtime.inference.frame import Frame, prepare

__all__ = [
    "Checkpoint",
    "CheckpointFacts",
    "build_model",
    "describe_checkpoint",
    "example_tiles",
    "load_checkpoint",
    "load_weights",
    "no_examples",
    "save_checkpoint",
]

Network = TypeVar("Network", bound=nn.Module)
_KEY = "segclip_deploy"
_BANK = "text_bank."
_EXAMPLES = "examples"
_EXAMPLE_SIZE = 512


def example_tiles(frames: Iterable[Frame]) -> NDArray[np.uint8]:
    """Centres of the first two frames, for a checkpoint to carry: enough to prove an export on.

    Returns:
        (N, 512, 512, 3) uint8, 0.8 MB each; N is 0 if there are no frames.
    """
    tiles = []
    for frame in islice(frames, 2):
        pixels = prepare(frame, _EXAMPLE_SIZE, _EXAMPLE_SIZE)
        top, left = ((side - _EXAMPLE_SIZE) // 2 for side in pixels.shape[:2])
        tiles.append(pixels[top : top + _EXAMPLE_SIZE, left : left + _EXAMPLE_SIZE])
    return np.stack(tiles) if tiles else no_examples()


def no_examples() -> NDArray[np.uint8]:
    """An empty stack of tiles."""
    return np.zeros((0, 1, 1, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Checkpoint:
    """Everything a trained model is.

    Attributes:
        spec: rebuilds the module.
        vocabulary: the classes.
        bank: their text embeddings.
        weights: the module's state dict, float32 in memory.
        examples: (N, h, w, 3) uint8 real tiles to prove an export on; N may be 0.
        training: how it came to be; None for imported weights.
        imported: name of the file the weights were imported from; None for trained ones.
        compaction: what was pruned; None where nothing was.

    Raises:
        BadInput: model, vocabulary and text bank do not belong together, or the tiles are none.
    """

    spec: ModelSpec
    vocabulary: Vocabulary
    bank: TextBank
    weights: Mapping[str, Tensor]
    examples: NDArray[np.uint8] = field(default_factory=no_examples)
    training: Training | None = None
    imported: str | None = None
    compaction: Compaction | None = None

    def __post_init__(self) -> None:
        if (
            self.examples.ndim != 4
            or self.examples.shape[3] != 3
            or self.examples.dtype != np.uint8
        ):
            raise BadInput(f"its example tiles are {self.examples.dtype} {self.examples.shape}")
        counts = {
            "its vocabulary": len(self.vocabulary.classes),
            "its text bank": len(self.bank.classes),
        }
        for what, count in counts.items():
            if count != self.spec.classes:
                raise BadInput(f"the model has {self.spec.classes} classes, {what} {count}")
        if self.bank.classes.shape[1] != self.spec.text_width:
            raise BadInput(
                f"the model takes text of width {self.spec.text_width}, "
                f"its text bank has {self.bank.classes.shape[1]}"
            )


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint is, without its weights.

    Attributes:
        path: the file.
        spec, vocabulary, training, imported, compaction: as of ``Checkpoint``.
        text_encoder: that made its text bank.
        parameters: how many numbers its weights are.
        examples: tiles that it carries.
    """

    path: Path
    spec: ModelSpec
    vocabulary: Vocabulary
    text_encoder: str
    parameters: int
    examples: int
    training: Training | None
    imported: str | None
    compaction: Compaction | None

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "model": self.spec.to_json(),
            "vocabulary": self.vocabulary.to_json(),
            "text_encoder": self.text_encoder,
            "parameters": self.parameters,
            "examples": self.examples,
            "training": self.training.to_json() if self.training else None,
            "imported": self.imported,
            "compaction": self.compaction.to_json() if self.compaction else None,
        }


def describe_checkpoint(path: Path) -> CheckpointFacts:
    """What a checkpoint is; errors as of ``load_checkpoint``."""
    checkpoint = load_checkpoint(path)
    return CheckpointFacts(
        path,
        checkpoint.spec,
        checkpoint.vocabulary,
        checkpoint.bank.encoder,
        sum(weight.numel() for weight in checkpoint.weights.values()),
        len(checkpoint.examples),
        checkpoint.training,
        checkpoint.imported,
        checkpoint.compaction,
    )


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, atomically.

    Matrices and kernels are stored in half precision, vectors and scalars in single:
    BatchNorm variances and temperatures are few, and their range matters.

    Raises:
        BadInput: a weight is not finite, or leaves the range of half precision.
    """
    safetensors = require("safetensors.torch", why="writing a checkpoint")
    tensors = {
        **checkpoint.weights,
        _BANK + "classes": torch.from_numpy(checkpoint.bank.classes),
        _BANK + "texts": torch.from_numpy(checkpoint.bank.texts),
        _EXAMPLES: torch.from_numpy(checkpoint.examples),
    }
    stored, written = {}, set()
    for name, tensor in tensors.items():
        in_fp16 = tensor.is_floating_point() and tensor.ndim >= 2
        stored[name] = (
            tensor.detach().cpu().to(torch.float16 if in_fp16 else tensor.dtype).contiguous()
        )
        if (memory := stored[name].untyped_storage().data_ptr()) in written:
            stored[name] = stored[name].clone()  # tied weights: a name each, as PyTorch keeps them
        written.add(memory)
        if not torch.isfinite(stored[name]).all():
            raise BadInput(f"weight {name} is not finite", where=path)
    record = CheckpointRecord(
        model=checkpoint.spec,
        vocabulary=checkpoint.vocabulary,
        text_encoder=checkpoint.bank.encoder,
        training=checkpoint.training,
        imported=checkpoint.imported,
        compaction=checkpoint.compaction,
    )
    with replace_file(path) as temporary:
        safetensors.save_file(
            stored, temporary, metadata={_KEY: json.dumps(CHECKPOINT.dump(record))}
        )


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint; nothing else is needed to rebuild the model.

    Raises:
        BadArtifact: not a checkpoint of this product, damaged, not finite, or of a newer schema.
    """
    path = Path(path)
    record, tensors = _read(path)
    try:
        bank = TextBank(
            tensors.pop(_BANK + "classes").numpy(),
            tensors.pop(_BANK + "texts").numpy(),
            record.text_encoder,
        )
        return Checkpoint(
            spec=record.model,
            vocabulary=record.vocabulary,
            bank=bank,
            examples=tensors.pop(_EXAMPLES).numpy(),
            weights=tensors,
            training=record.training,
            imported=record.imported,
            compaction=record.compaction,
        )
    except KeyError as error:
        raise BadArtifact(f"has no tensor {error}", where=path, fix=_anew(path)) from error
    except BadInput as error:
        raise BadArtifact(error.what, where=path, fix=_anew(path)) from error


def build_model(checkpoint: Checkpoint) -> SegCLIP:
    """Rebuild SegCLIP with its weights, in evaluation mode.

    Raises:
        BadArtifact: the weights do not fit the spec.
    """
    return load_weights(SegCLIP(checkpoint.spec), checkpoint)


def load_weights(network: Network, checkpoint: Checkpoint) -> Network:
    """Put a checkpoint's weights into a network and that into evaluation mode.

    Raises:
        BadArtifact: the weights are those of another network.
    """
    try:
        network.load_state_dict(dict(checkpoint.weights))
    except RuntimeError as error:
        raise BadArtifact(
            f"its weights do not fit {type(network).__name__} ({error})",
            fix="export networks other than SegCLIP with --model package.module:function",
        ) from error
    return network.eval()


def _anew(path: Path) -> str:
    train = "segclip-deploy train DATASET --vocabulary V --text BANK --time-budget 20m"
    return f"{command('rm', path)} && {train} {command('-o', path)}"


def _import_command(path: Path) -> str:
    out = path.with_name(f"{path.stem}.imported.safetensors")
    return command("segclip-deploy", "import", path, "--spec", "SPEC", "--text", "BANK", "-o", out)


def _read(path: Path) -> tuple[CheckpointRecord, dict[str, Tensor]]:
    safetensors = require("safetensors", why="reading a checkpoint")
    if not path.is_file():
        raise BadArtifact("no such checkpoint", where=path)
    try:
        with safetensors.safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}
        text = metadata[_KEY]
    except (safetensors.SafetensorError, OSError) as error:
        raise BadArtifact(
            f"not a safetensors file ({error})",
            where=path,
            fix=f"a PyTorch file is read by: {_import_command(path)}",
        ) from error
    except UNREADABLE as error:
        raise BadArtifact("a safetensors file, but not of this product", where=path) from error
    record = CHECKPOINT.parse(parse_json(text, where=path), where=path, fix=_anew(path))
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = tensor.float()
            if not torch.isfinite(tensors[name]).all():
                raise BadArtifact(f"weight {name} is not finite", where=path)
    return record, tensors
