"""What a dataset holds: its images with their masks, in splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from segclip_deploy.artifacts.files import read_json
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.evaluation.layouts import OWN, ImageEntry, find_layout, list_files

__all__ = ["Index", "read_index"]

PLAN_SHARE = 0.1
"""Of the training scenes, in a layout without a split ``plan``."""


@dataclass(frozen=True)
class Index:
    """What a dataset holds.

    Attributes:
        layout: its name.
        entries: by name, sorted.
        splits: names of the images in each split.
        held_out: whether ``plan`` was taken out of the publisher's ``train`` here.
    """

    layout: str
    entries: Mapping[str, ImageEntry]
    splits: Mapping[str, tuple[str, ...]]
    held_out: bool = False

    def not_for_training(self) -> Iterator[tuple[str, str]]:
        """(Split, name) of every image that is for evaluation: of all splits but ``train``."""
        for split, names in self.splits.items():
            if split != "train":
                yield from ((split, name) for name in names)

    def image(self, name: str, root: Path) -> Path:
        """The file of an image.

        Raises:
            BadInput: there is none, or more than one.
        """
        found = self.entries[name].images if name in self.entries else ()
        if len(found) != 1:
            folder = found[0].parent if found else root / "images" if self.layout == OWN else root
            raise BadInput(f"{len(found)} images named {name}, one was expected", where=folder)
        return found[0]

    def mask_folder(self, root: Path, name: str) -> Path:
        """Where a mask was looked for, for errors."""
        return root / "masks" if self.layout == OWN else self.image(name, root).parent

    def common_suffix(self, root: Path) -> str | None:
        """What the masks of all images have after the image's name, if that is one thing and the same."""
        names = [name for members in self.splits.values() for name in members]
        if self.layout != OWN or not names:
            return None
        stems = {path.stem for path in list_files(root / "masks")}
        first = min(names)
        suffixes = {stem.removeprefix(first) for stem in stems if stem.startswith(first)} - {""}
        fitting = [s for s in suffixes if stems.issuperset(name + s for name in names)]
        return fitting[0] if len(fitting) == 1 else None


def read_index(root: Path, *, layout: str | None = None, mask_suffix: str = "") -> Index:
    """List a dataset once.

    Args:
        root: the folder.
        layout: of ``LAYOUTS``; by default what is there decides.
        mask_suffix: what a mask's name has more than its image's, in our layout and mmseg's.

    Raises:
        BadInput: no such layout, or a split.json that is damaged, empty, or names an image twice.
    """
    kind = find_layout(root, layout)
    found = sorted(kind.entries(root, mask_suffix), key=lambda entry: entry.name)
    entries = {entry.name: entry for entry in found}
    if kind.name == OWN:
        return Index(kind.name, entries, _own_splits(root, entries))
    splits: dict[str, list[str]] = {}
    for entry in found:
        splits.setdefault(entry.split, []).append(entry.name)
    return _hold_out(Index(kind.name, entries, {k: tuple(names) for k, names in splits.items()}))


def _own_splits(root: Path, entries: Mapping[str, ImageEntry]) -> dict[str, tuple[str, ...]]:
    """Those of split.json; without one all images are in one split, ``all``."""
    path = root / "split.json"
    if not path.exists():
        return {"all": tuple(entries)}
    try:
        record = read_json(path)
    except BadArtifact as error:
        raise BadInput(error.what, where=error.where) from error
    # Every list is a split; anything else in the file is a remark.
    splits = {k: tuple(str(n) for n in v) for k, v in record.items() if isinstance(v, list)}
    if not any(splits.values()):
        raise BadInput("names no image in any split", where=path)
    seen: set[str] = set()
    repeated: set[str] = set()
    for name in (name for members in splits.values() for name in members):
        (repeated if name in seen else seen).add(name)
    if repeated:
        raise BadInput(f"split.json names {', '.join(sorted(repeated))} more than once", where=root)
    return splits


def _hold_out(index: Index) -> Index:
    """Take whole scenes out of ``train`` for ``plan``: a tenth, by their names' hashes, one at least.

    What is chosen must not depend on other scenes that are there, nor on the order of a disk.
    """
    train = index.splits.get("train", ())
    scenes = sorted({index.entries[name].scene for name in train}, key=_rank)
    if "plan" in index.splits or len(scenes) < 2:
        return index
    most = 2**32 * PLAN_SHARE
    held = {scene for scene in scenes if _rank(scene) < most} or {scenes[0]}
    parts = {
        "train": tuple(n for n in train if index.entries[n].scene not in held),
        "plan": tuple(n for n in train if index.entries[n].scene in held),
    }
    splits = {**parts, **{k: v for k, v in index.splits.items() if k != "train"}}
    return Index(index.layout, index.entries, splits, held_out=True)


def _rank(scene: str) -> int:
    """A number below 2³² that a name alone decides."""
    return int.from_bytes(hashlib.sha256(scene.encode()).digest()[:4], "big")
