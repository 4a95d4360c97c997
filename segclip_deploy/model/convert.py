"""``import``: a user's PyTorch weights become a checkpoint, and every key is accounted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadInput
from segclip_deploy.model.checkpoint import Checkpoint, example_tiles, save_checkpoint
from segclip_deploy.model.network import Factory
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import TextBank
from segclip_deploy.model.torch_file import TOP, find_weights, read_torch_file
from segclip_deploy.runtime.inference.frame import list_images, read_frame

__all__ = ["KeyReport", "compare_keys", "import_weights"]

_COUNTER = "num_batches_tracked"
"""BatchNorm's count of training steps: nothing that a trained network computes depends on it."""


@dataclass(frozen=True)
class KeyReport:
    """What became of the keys.

    Attributes:
        taken: how many tensors were taken over.
        missing: keys the model has and the file has not.
        left_over: keys of the file which the model has no place for.
        reshaped: keys of both, of unequal shape, with the two shapes.
        counters: counters of training steps that the file has not; they are not needed, and 0.
        place: where in the file the tensors lie, ``.`` for the file itself.
        beside: other places of the file, which were not taken, with their numbers of tensors.
    """

    taken: int
    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    reshaped: tuple[str, ...]
    counters: int = 0
    place: str = TOP
    beside: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON, of an import that succeeded: nothing is missing then."""
        return {
            "taken": self.taken,
            "place": self.place,
            "beside": dict(self.beside),
            "counters": self.counters,
            "dropped": list(self.left_over),
        }


def import_weights(
    weights_path: Path,
    spec: ModelSpec,
    vocabulary: Vocabulary,
    bank: TextBank,
    out: Path,
    *,
    factory: Factory = SegCLIP,
    key: str | None = None,
    renames: Sequence[tuple[str, str]] = (),
    tiles: Path | None = None,
    allow_left_over: bool = False,
) -> KeyReport:
    """Write ``out`` from a ``.pth``, if it has every tensor the spec needs.

    Args:
        factory: makes the network whose tensors are wanted.
        key: where in the file they lie; None finds the one place that fits.
        renames: (old prefix, new prefix), tried in order; the first that fits a key renames it.
        tiles: images, of which the first two are carried for proving exports.
        allow_left_over: drop tensors the model has no place for.

    Raises:
        BadArtifact: the file is unreadable or a pickle of objects.
        BadInput: two places in the file fit; tensors are missing, of another shape or, unless
            allowed, left over; or the spec, vocabulary and bank do not belong together. Nothing
            is written.
    """
    wanted = factory(spec).state_dict()
    rename = partial(_rename, rules=renames)
    place = find_weights(
        read_torch_file(weights_path), wanted.keys(), weights_path, key=key, rename=rename
    )
    renamed = {rename(name): tensor for name, tensor in place.weights.items()}
    if len(renamed) < len(place.weights):
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
    report = replace(compare_keys(renamed, wanted), place=place.name, beside=place.beside)
    problems = {
        "missing": report.missing,
        "of another shape": report.reshaped,
        "left over": () if allow_left_over else report.left_over,
    }
    found = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in problems.items() if keys]
    if found:
        raise BadInput(
            f"of {len(wanted)} tensors {report.taken} at {place.name} fit: {'; '.join(found)}",
            where=weights_path,
            fix="map names with --rename OLD=NEW (docs/how-to/import.md lists those that are wanted), "
            "correct the spec, or choose another place with --key"
            + (
                "" if report.missing or report.reshaped else ", or drop them with --allow-left-over"
            ),
        )
    taken = {key: tensor for key, tensor in renamed.items() if _fits(key, tensor, wanted)}
    # What is not taken by now is a counter, for which 0 is as good as any.
    save_checkpoint(out, replace(checkpoint, weights={**wanted, **taken}))
    return report


def compare_keys(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> KeyReport:
    """Hold a file's tensors against a model's; counters of training steps hinder nothing."""
    taken = [key for key in wanted if key in found and _fits(key, found[key], wanted)]
    absent = [key for key in wanted if key not in taken]
    needed = [key for key in absent if not _is_counter(key)]
    return KeyReport(
        taken=len(taken),
        missing=tuple(key for key in needed if key not in found),
        left_over=tuple(key for key in found if key not in wanted and not _is_counter(key)),
        reshaped=tuple(
            f"{key}: {tuple(found[key].shape)} for {tuple(wanted[key].shape)}"
            for key in needed
            if key in found
        ),
        counters=len(absent) - len(needed),
    )


def _fits(key: str, tensor: Tensor, wanted: Mapping[str, Tensor]) -> bool:
    return key in wanted and tensor.shape == wanted[key].shape


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] == _COUNTER


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")


def _rename(key: str, *, rules: Sequence[tuple[str, str]]) -> str:
    for old, new in rules:
        if key.startswith(old):
            return new + key[len(old) :]
    return key
