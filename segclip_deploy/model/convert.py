"""``import``: a user's PyTorch weights become a checkpoint, and every key is accounted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.model.checkpoint import Checkpoint, example_tiles, save_checkpoint
from segclip_deploy.model.network import Factory
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import TextBank
from segclip_deploy.runtime.inference.frame import list_images, read_frame

__all__ = ["KeyReport", "compare_keys", "import_weights", "read_torch_weights"]

_WRAPPERS = ("module.", "_orig_mod.", "model.", "ema.")
"""Prefixes that training wrappers put before every key: DDP, torch.compile, Lightning, EMA."""

_CONTAINERS = ("state_dict", "model", "model_state_dict", "ema", "weights")
"""Keys under which training scripts keep the weights in a larger file."""


@dataclass(frozen=True)
class KeyReport:
    """What became of the keys.

    Attributes:
        taken: how many tensors were taken over.
        missing: keys the model has and the file has not.
        left_over: keys of the file which the model has no place for.
        reshaped: keys of both, of unequal shape, with the two shapes.
    """

    taken: int
    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    reshaped: tuple[str, ...]


def read_torch_weights(path: Path) -> dict[str, Tensor]:
    """Read a ``.pth`` without running anything in it.

    Raises:
        BadArtifact: unreadable, or it holds pickled objects instead of tensors alone.
        BadInput: no mapping of names to tensors is in it.
    """
    try:
        stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types on damaged files
        reason = str(error).splitlines()[0]
        raise BadArtifact(
            f"not readable as plain weights ({reason})",
            where=path,
            fix="save it again with torch.save(model.state_dict(), FILE)",
        ) from error
    for key in _CONTAINERS:
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
            break
    if not isinstance(stored, Mapping):
        raise BadInput(f"holds a {type(stored).__name__}, not named tensors", where=path)
    weights = {str(k): v for k, v in stored.items() if isinstance(v, Tensor)}
    if not weights:
        raise BadInput("holds no tensors", where=path)
    return weights


def import_weights(
    weights_path: Path,
    spec: ModelSpec,
    vocabulary: Vocabulary,
    bank: TextBank,
    out: Path,
    *,
    factory: Factory = SegCLIP,
    renames: Sequence[tuple[str, str]] = (),
    tiles: Path | None = None,
    allow_left_over: bool = False,
) -> KeyReport:
    """Write ``out`` from a ``.pth``, if it has every tensor the spec needs.

    Args:
        factory: makes the network whose tensors are wanted.
        renames: (old prefix, new prefix), tried in order; the first that fits a key renames it.
        tiles: images, of which the first two are carried for proving exports.
        allow_left_over: drop tensors the model has no place for.

    Raises:
        BadArtifact: the file is unreadable or a pickle of objects.
        BadInput: tensors are missing, of another shape or, unless allowed, left over; or the
            spec, vocabulary and bank do not belong together. Nothing is written.
    """
    wanted = factory(spec).state_dict()
    weights = _unwrap(read_torch_weights(weights_path), wanted)
    renamed = {_rename(key, renames): tensor for key, tensor in weights.items()}
    if len(renamed) < len(weights):
        raise BadInput("two keys get the same name", where="--rename")
    frames = (read_frame(path) for path in list_images(tiles)) if tiles else iter(())
    checkpoint = Checkpoint(
        spec,
        vocabulary,
        bank,
        renamed,
        example_tiles(frames),
        imported=weights_path.name,
    )
    report = compare_keys(renamed, wanted)
    problems = {
        "missing": report.missing,
        "of another shape": report.reshaped,
        "left over": () if allow_left_over else report.left_over,
    }
    found = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in problems.items() if keys]
    if found:
        raise BadInput(
            f"of {len(wanted)} tensors {report.taken} fit: {'; '.join(found)}",
            where=weights_path,
            fix="map names with --rename OLD=NEW, or correct the spec"
            + (
                "" if report.missing or report.reshaped else ", or drop them with --allow-left-over"
            ),
        )
    taken = {key: renamed[key] for key in wanted}
    save_checkpoint(out, replace(checkpoint, weights=taken))
    return report


def compare_keys(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> KeyReport:
    """Hold a file's tensors against a model's."""
    shared = [key for key in wanted if key in found]
    reshaped = [key for key in shared if found[key].shape != wanted[key].shape]
    return KeyReport(
        taken=len(shared) - len(reshaped),
        missing=tuple(key for key in wanted if key not in found),
        left_over=tuple(key for key in found if key not in wanted),
        reshaped=tuple(
            f"{key}: {tuple(found[key].shape)} for {tuple(wanted[key].shape)}" for key in reshaped
        ),
    )


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")


def _unwrap(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Take off prefixes that every key has, as far as that makes more keys fit."""
    best = weights
    while prefix := next((p for p in _WRAPPERS if all(k.startswith(p) for k in weights)), None):
        weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
        if len(weights.keys() & wanted.keys()) > len(best.keys() & wanted.keys()):
            best = weights
    return best


def _rename(key: str, rules: Sequence[tuple[str, str]]) -> str:
    for old, new in rules:
        if key.startswith(old):
            return new + key[len(old) :]
    return key
