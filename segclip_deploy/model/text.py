"""TextBank: what a vocabulary says, as CLIP text embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.files import read_npz, replace_file
from segclip_deploy.artifacts.records import Format, Record
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadInput, SegclipError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "TextBank",
    "Tokenizer",
    "encode_vocabulary",
    "load_text_bank",
    "open_clip_encoder",
    "save_text_bank",
]

Tokenizer = Callable[[list[str]], "Tensor"]
"""Sentences → token ids (N, length)."""


class BankRecord(Record, frozen=True):
    """What a stored bank says beside its arrays.

    Attributes:
        encoder: which text encoder they came from.
    """

    encoder: str


def _of_schema_1(data: dict[str, Any]) -> dict[str, Any]:
    """Anybody may have written it, and other things beside the encoder, or nothing."""
    return {"encoder": str(data.get("encoder", "unknown"))}


BANK = Format("a text bank", BankRecord, schema=2, migrations={1: _of_schema_1})
"""How the metadata of a text bank is written and read; all of its values are text."""

_FIX = "write the bank anew; see docs/how-to/text-banks.md"

TextEncoder = Callable[[Sequence[str]], NDArray[np.float32]]
"""Sentences → (N, D_t) embeddings, of any length."""


@dataclass(frozen=True)
class TextBank:
    """Text embeddings of a vocabulary, each of unit length.

    Attributes:
        classes: (K, D_t) float32, one embedding per class.
        texts: (K, M, D_t) float32, M real texts per class.
        encoder: which text encoder they came from; spaces of two encoders do not mix.
    """

    classes: NDArray[np.float32]
    texts: NDArray[np.float32]
    encoder: str

    def __post_init__(self) -> None:
        classes, texts = self.classes, self.texts
        same = texts.ndim == 3 and texts.shape[::2] == classes.shape and texts.size
        if classes.ndim != 2 or not same:
            raise BadInput(
                f"text bank has classes {classes.shape} and texts {texts.shape}, "
                "not (K, D) and (K, M, D)"
            )
        if not (np.isfinite(classes).all() and np.isfinite(texts).all()):
            raise BadInput("text bank has embeddings that are not finite")


def encode_vocabulary(vocabulary: Vocabulary, encode: TextEncoder, *, encoder: str) -> TextBank:
    """Embed a vocabulary: classes by all their prompts, real texts one by one.

    A class embedding is the unit mean of the unit embeddings of its prompts (Radford et
    al., ICML 2021, prompt ensembling).
    """
    classes = [unit_rows(encode(vocabulary.prompts(c))).mean(0) for c in vocabulary.classes]
    texts = [unit_rows(encode(c.texts)) for c in vocabulary.classes]
    return TextBank(unit_rows(np.stack(classes)), np.stack(texts), encoder)


def open_clip_encoder(model: str, weights: str) -> TextEncoder:
    """A text encoder of open_clip.

    Args:
        model: open_clip's model name, for example ``"ViT-B-16"``.
        weights: a local file, or one of open_clip's pretrained tags.

    Raises:
        BadInput: no such model or weights.
        MissingDependency: open_clip is not installed.
    """
    torch = require("torch", why="encoding text")
    module, tokenizer = load_open_clip(model, weights)

    def encode(sentences: Sequence[str]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(module.encode_text(tokenizer(list(sentences))).float().numpy())

    return encode


def load_open_clip(model: str, weights: str | None) -> tuple[Any, Tokenizer]:
    """An open_clip model in evaluation mode and its tokenizer; ``None`` leaves its weights random.

    Raises:
        BadInput: no such model or weights.
    """
    open_clip = require("open_clip", why="encoding text")
    if model not in open_clip.list_models():
        raise BadInput(f"open_clip has no model {model!r}", where="--text")
    try:
        module = open_clip.create_model(model, pretrained=weights, require_pretrained=bool(weights))
    except (RuntimeError, OSError, ValueError) as error:
        raise BadInput(
            f"open_clip cannot load weights {weights!r} ({error})", where="--text"
        ) from error
    return module.eval(), open_clip.get_tokenizer(model)


def load_text_bank(source: str, vocabulary: Vocabulary) -> TextBank:
    """Read a stored bank (``.npz``, ``.safetensors``), or encode ``open_clip:MODEL@WEIGHTS``.

    A stored bank holds arrays ``classes`` (K, D_t) and ``texts`` (K, M, D_t), in the
    vocabulary's class order.

    Raises:
        BadInput: unreadable, of another shape, or of another number of classes.
    """
    if source.startswith("open_clip:"):
        model, _, weights = source.removeprefix("open_clip:").partition("@")
        if not weights:
            raise BadInput(
                "names no weights",
                where=f"--text {source}",
                fix="write open_clip:MODEL@FILE_OR_TAG",
            )
        return encode_vocabulary(vocabulary, open_clip_encoder(model, weights), encoder=source)
    arrays, encoder = _read_arrays(Path(source))
    absent = {"classes", "texts"} - set(arrays)
    if absent:
        raise BadInput(
            f"no array {' or '.join(sorted(absent))} (it has {', '.join(sorted(arrays))})",
            where=source,
            fix="a text bank holds classes (K, D) and texts (K, M, D); see docs/how-to/text-banks.md",
        )
    try:
        classes, texts = (arrays[k].astype(np.float32) for k in ("classes", "texts"))
    except (TypeError, ValueError) as error:
        raise BadInput(f"its arrays are no numbers ({error})", where=source) from error
    if not classes.shape[:1] == texts.shape[:1] == (len(vocabulary.classes),):
        raise BadInput(
            f"text bank has classes {classes.shape} and texts {texts.shape}, "
            f"vocabulary {vocabulary.name!r} has {len(vocabulary.classes)} classes",
            where=source,
            fix="use the bank and the vocabulary that belong together",
        )
    try:
        return TextBank(unit_rows(classes), unit_rows(texts), encoder)
    except BadInput as error:
        raise BadInput(error.what, where=source) from error


def save_text_bank(path: Path, bank: TextBank) -> None:
    """Write a bank as ``.safetensors``, in half precision (they are unit vectors), atomically."""
    numpy_io = require("safetensors.numpy", why="writing a text bank")
    arrays = {"classes": bank.classes.astype(np.float16), "texts": bank.texts.astype(np.float16)}
    with replace_file(path) as temporary:
        record = BANK.dump(BankRecord(bank.encoder))
        metadata = {name: str(value) for name, value in record.items()}
        numpy_io.save_file(arrays, temporary, metadata=metadata)


def unit_rows(x: NDArray[Any]) -> NDArray[np.float32]:
    """Scale the last axis to Euclidean length 1.

    Raises:
        BadInput: a row of zeros, which has no direction, or one that is not finite.
    """
    x = np.asarray(x, dtype=np.float32)
    if not np.isfinite(x).all():
        raise BadInput("a text embedding is not finite")
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    if not norm.all():
        raise BadInput("a text embedding is all zeros")
    return np.asarray(x / norm, dtype=np.float32)


def _read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    try:
        if path.suffix == ".npz":
            arrays = read_npz(path)
            said = {name: str(arrays.pop(name)) for name in {"schema", "encoder"} & arrays.keys()}
            return arrays, _encoder(said, path)
        if path.suffix == ".safetensors":
            safetensors = require("safetensors", why="reading a text bank")
            with safetensors.safe_open(path, framework="numpy") as stored:
                arrays = {key: stored.get_tensor(key) for key in stored.keys()}
                return arrays, _encoder(stored.metadata() or {}, path)
    except SegclipError as error:
        raise BadInput(error.what, where=path, fix=error.fix) from error
    except Exception as error:  # the readers raise many types on damaged files
        raise BadInput(f"not a readable text bank ({error})", where=path) from error
    raise BadInput("a text bank is .npz, .safetensors or open_clip:MODEL@WEIGHTS", where=path)


def _encoder(metadata: Mapping[str, str], path: Path) -> str:
    """What a bank's metadata says of its encoder; without a schema it is of the first."""
    data = {**metadata, "schema": int(metadata.get("schema", 1))}
    return BANK.parse(data, where=path, fix=_FIX).encoder
