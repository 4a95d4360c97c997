"""Datasets on disk: a folder with images/, masks/ and split.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.files import read_json
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, Vocabulary
from segclip_deploy.errors import BadArtifact, BadInput, command
from segclip_deploy.evaluation.mask import read_mask
from segclip_deploy.runtime.inference.frame import Frame, is_image_name, list_images
from segclip_deploy.runtime.io.idle_options import refuse_idle_options
from segclip_deploy.runtime.io.pictures import Windows, open_windows, read_picture
from segclip_deploy.runtime.io.raster.source import Reading

__all__ = ["Dataset", "Sample", "find_image", "open_dataset", "read_splits"]

_LAYOUT = (
    "it needs images/ and masks/ with the same names in both; link or rename the folders of "
    "another layout"
)


@dataclass(frozen=True)
class Sample:
    """One image and its ground truth.

    Attributes:
        name: the file's stem.
        frame: the image.
        ground_truth: (H, W) uint8 class indices, ``IGNORE_INDEX`` where ignored, or where the image is not valid.
    """

    name: str
    frame: Frame
    ground_truth: NDArray[np.uint8]


@dataclass(frozen=True)
class Dataset:
    """A folder of images and masks, read with a vocabulary.

    Attributes:
        root: the folder.
        vocabulary: how masks are read.
        splits: names of the images in each split; without a ``split.json`` one split, ``all``.
        mask_suffix: what a mask's name has more than its image's: ``"_mask"`` for a.jpg and a_mask.png.
        reading: how images are read; at their own scale, which is that of the masks.
    """

    root: Path
    vocabulary: Vocabulary
    splits: dict[str, tuple[str, ...]]
    mask_suffix: str = ""
    reading: Reading = field(default_factory=Reading)

    def names(self, split: str) -> tuple[str, ...]:
        """Image names of a split.

        Raises:
            BadInput: no such split.
        """
        if split not in self.splits:
            raise BadInput(f"no split {split!r} (it has {', '.join(self.splits)})", where=self.root)
        return self.splits[split]

    def choose_split(self, asked: str | None, usual: str) -> str:
        """The split that was asked for; or else the usual one, or the only one there is.

        Raises:
            BadInput: no such split, or none was asked for and there are several others.
        """
        if asked is None and usual not in self.splits and len(self.splits) == 1:
            return next(iter(self.splits))
        self.names(asked or usual)
        return asked or usual

    def read(self, name: str) -> Sample:
        """Read one image and its mask.

        Raises:
            BadInput: a file is missing or unusable, sizes differ, or the mask has unknown values.
        """
        image = find_image(self.root / "images", name)
        mask = self._mask(name)
        frame, values = read_picture(image, self.reading), read_mask(mask)
        if values.shape[:2] != frame.pixels.shape[:2]:
            raise BadInput(
                f"mask is {values.shape[1]}×{values.shape[0]}, its image "
                f"{frame.pixels.shape[1]}×{frame.pixels.shape[0]}",
                where=mask,
            )
        ground_truth = self.vocabulary.decode_mask(values, where=mask)
        if frame.valid is not None:
            ground_truth[~frame.valid] = IGNORE_INDEX
        return Sample(name, frame, ground_truth)

    def _mask(self, name: str) -> Path:
        folder = self.root / "masks"
        try:
            return find_image(folder, name + self.mask_suffix)
        except BadInput as error:
            suffix = _common_suffix(folder, [n for names in self.splits.values() for n in names])
            remedy = command(f"--mask-suffix={suffix}") if suffix else None
            raise BadInput(error.what, where=error.where, fix=remedy) from error

    def open_windows(self, path: Path, height: int, width: int) -> Windows:
        """An image of it in windows, at its own scale; as ``pictures.open_windows``."""
        return open_windows(path, height, width, reading=self.reading)

    def samples(self, split: str) -> Iterator[Sample]:
        """Read a split one by one."""
        for name in self.names(split):
            yield self.read(name)


def open_dataset(
    root: str | Path,
    vocabulary: Vocabulary,
    *,
    mask_suffix: str = "",
    reading: Reading | None = None,
) -> Dataset:
    """Open a dataset folder.

    Args:
        root: the folder.
        vocabulary: how masks are read.
        mask_suffix: what a mask's name has more than its image's, before the file's suffix.
        reading: how images are read; by default as they are stored.

    Raises:
        BadInput: no images/ or masks/ folder, a split names an image twice or not at all, or
            ``reading`` changes no image.
    """
    root, reading = Path(root), reading or Reading()
    for folder in ("images", "masks"):
        if not (root / folder).is_dir():
            raise BadInput(f"not a dataset: no {folder}/ in it", where=root, fix=_LAYOUT)
    splits = read_splits(root)
    refuse_idle_options(list_images(root / "images"), reading)
    return Dataset(root, vocabulary, splits, mask_suffix, reading)


def read_splits(root: Path) -> dict[str, tuple[str, ...]]:
    """Names of the images in each split; without a ``split.json`` all are in one, ``all``.

    Raises:
        BadInput: no images/ folder, or a split.json that is damaged, empty or names an image twice.
    """
    if not (root / "split.json").exists():
        return {"all": tuple(p.stem for p in list_images(root / "images"))}
    try:
        record = read_json(root / "split.json")
    except BadArtifact as error:
        raise BadInput(error.what, where=error.where) from error
    # Every list is a split; anything else in the file is a remark.
    splits = {k: tuple(str(n) for n in v) for k, v in record.items() if isinstance(v, list)}
    if not any(splits.values()):
        raise BadInput("names no image in any split", where=root / "split.json")
    names = [name for members in splits.values() for name in members]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise BadInput(f"split.json names {', '.join(repeated)} more than once", where=root)
    return splits


def find_image(folder: Path, name: str) -> Path:
    """The one image of a folder with this stem.

    Raises:
        BadInput: there is none, or more than one.
    """
    found = [p for p in folder.iterdir() if p.stem == name and is_image_name(p)]
    if len(found) != 1:
        raise BadInput(f"{len(found)} images named {name}, one was expected", where=folder)
    return found[0]


def _common_suffix(folder: Path, names: Sequence[str]) -> str | None:
    """What the masks of all images have after the image's name, if that is one thing, and the same."""
    stems = {path.stem for path in folder.iterdir() if is_image_name(path)}
    first = min(names)
    suffixes = {stem.removeprefix(first) for stem in stems if stem.startswith(first)} - {""}
    fitting = [s for s in suffixes if stems.issuperset(name + s for name in names)]
    return fitting[0] if len(fitting) == 1 else None
