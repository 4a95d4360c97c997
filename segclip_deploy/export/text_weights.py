"""``text.safetensors``: the weights from which every constant that depends on text is computed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.files import UNREADABLE, parse_json, replace_file
from segclip_deploy.artifacts.records import Format, Record
from segclip_deploy.errors import BadArtifact, command
from segclip_deploy.export.algebra import (
    Array,
    Weights,
    adapt,
    fold_fusion,
    fold_refiner,
    is_bounded,
    plain_fusion,
    plain_refiner,
)
from segclip_deploy.model.text import TextBank

__all__ = [
    "TextWeights",
    "bounded_levels",
    "load_text_weights",
    "save_text_weights",
    "text_constants",
]

_KEY = "segclip_deploy"


class TextRecord(Record, frozen=True):
    """What ``text.safetensors`` says beside its arrays; as ``TextWeights`` has it."""

    heads: int
    texts: int
    blocks: Mapping[str, bool]
    bounded: tuple[str, ...]


_FORMAT = Format("text weights", TextRecord, schema=1)


@dataclass(frozen=True)
class TextWeights:
    """All that turns a text bank into the constants of an exported graph, and the graph's form.

    Attributes:
        arrays: weights by the model's names; ``refiner.scale`` is τ itself.
        heads: of the attentions.
        texts: M, real texts per class.
        blocks: whether text is folded in, by block: ``cff.<stride>`` and ``refiner``.
        bounded: the folded levels whose softmax over classes takes no maximum.
    """

    arrays: Mapping[str, NDArray[Any]]
    heads: int
    texts: int
    blocks: Mapping[str, bool]
    bounded: frozenset[str]

    @classmethod
    def gather(
        cls,
        arrays: Mapping[str, NDArray[Any]],
        heads: int,
        blocks: Mapping[str, bool],
        bank: TextBank,
    ) -> TextWeights:
        """Keep of a model's ``arrays`` those that the constants of its text are made of."""
        weights = Weights(arrays)
        constants = _constants(weights, heads, blocks, bank)
        return cls(
            arrays={name: arrays[name] for name in sorted(weights.read)},
            heads=heads,
            texts=bank.texts.shape[1],
            blocks=dict(blocks),
            bounded=bounded_levels(constants),
        )


def text_constants(text: TextWeights, bank: TextBank) -> dict[str, Array]:
    """Every constant of the graph that depends on the text, by its name: ``text.*``, float64.

    ``text.classes`` is T (K, C); the others are ``text.<block>.<name>``.
    """
    return _constants(Weights(text.arrays), text.heads, text.blocks, bank)


def bounded_levels(constants: Mapping[str, Array]) -> frozenset[str]:
    """The folded levels whose softmax over classes needs no maximum, with these constants."""
    levels = [n[len("text.") : -len(".reads")] for n in constants if n.endswith(".reads")]
    names = ("reads", "score_bias")
    return frozenset(
        level for level in levels if is_bounded({n: constants[f"text.{level}.{n}"] for n in names})
    )


def save_text_weights(path: Path, text: TextWeights) -> None:
    """Write as ``.safetensors``, in single precision, atomically."""
    numpy_io = require("safetensors.numpy", why="writing text weights")
    record = TextRecord(text.heads, text.texts, text.blocks, tuple(sorted(text.bounded)))
    arrays = {name: array.astype(np.float32) for name, array in text.arrays.items()}
    with replace_file(path) as temporary:
        numpy_io.save_file(arrays, temporary, metadata={_KEY: json.dumps(_FORMAT.dump(record))})


def load_text_weights(path: Path) -> TextWeights:
    """Read text weights.

    Raises:
        BadArtifact: damaged, of another product, or of a newer schema.
    """
    safetensors = require("safetensors", why="reading text weights")
    fix = command("segclip-deploy", "export", "CKPT", "-o", path.parent)
    try:
        with safetensors.safe_open(path, framework="numpy") as stored:
            said = stored.metadata()[_KEY]
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}
    except (safetensors.SafetensorError, OSError, *UNREADABLE) as error:
        raise BadArtifact(
            f"not readable as text weights ({error!r})", where=path, fix=fix
        ) from error
    record = _FORMAT.parse(parse_json(said, where=path), where=path, fix=fix)
    return TextWeights(
        arrays=arrays,
        heads=record.heads,
        texts=record.texts,
        blocks=record.blocks,
        bounded=frozenset(record.bounded),
    )


def _constants(
    weights: Weights, heads: int, blocks: Mapping[str, bool], bank: TextBank
) -> dict[str, Array]:
    classes, texts = (np.asarray(x, dtype=np.float64) for x in (bank.classes, bank.texts))
    adapter = weights.at("adapter")
    text = adapt(adapter, classes)
    constants = {"text.classes": text}
    for block, folded in blocks.items():
        if block == "refiner":
            real_texts = adapt(adapter, texts.reshape(-1, texts.shape[-1]))
            refine = fold_refiner if folded else plain_refiner
            made = refine(weights.at("refiner"), heads, text, real_texts)
        else:
            fuse = fold_fusion if folded else plain_fusion
            level = weights.at(f"decoder.fusions.{block.removeprefix('cff.')}")
            made = fuse(level, heads, text)
        constants |= {f"text.{block}.{name}": array for name, array in made.items()}
    return constants
