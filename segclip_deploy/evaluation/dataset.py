"""Datasets on disk: images, masks and splits, of any layout of ``layouts``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, Vocabulary
from segclip_deploy.errors import BadInput, command
from segclip_deploy.evaluation.dataset_index import Index, read_index
from segclip_deploy.evaluation.layouts import OWN
from segclip_deploy.evaluation.mask import read_mask
from segclip_deploy.progress import Report, saying
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.io.idle_options import refuse_idle_options
from segclip_deploy.runtime.io.pictures import Windows, open_windows, read_picture
from segclip_deploy.runtime.io.raster.source import Reading

__all__ = ["MAX_MEGAPIXELS", "Dataset", "Sample", "choose_plan_split", "open_dataset"]

MAX_MEGAPIXELS = 400.0
"""Of an image of a dataset: iSAID's largest has 169. It takes 7 bytes a pixel while it is read."""


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
    """Images and masks, read with a vocabulary.

    Attributes:
        root: the folder.
        vocabulary: how masks are read.
        index: where everything lies; listed once, when the dataset was opened.
        mask_suffix: what a mask's name has more than its image's: ``"_mask"`` for a.jpg and a_mask.png.
        reading: how images are read; at their own scale, which is that of the masks.
    """

    root: Path
    vocabulary: Vocabulary
    index: Index
    mask_suffix: str = ""
    reading: Reading = field(default_factory=Reading)

    @property
    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the images in each split; ``all`` where there is none."""
        return self.index.splits

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

    def image(self, name: str) -> Path:
        """The file of an image.

        Raises:
            BadInput: there is none, or more than one.
        """
        return self.index.image(name, self.root)

    def mask(self, name: str) -> Path:
        """The file of an image's mask.

        Raises:
            BadInput: there is none, or more than one; says which ``--mask-suffix`` fits all.
        """
        entry = self.index.entries.get(name)
        found = entry.masks if entry else ()
        if len(found) != 1:
            stem = self.image(name).stem + self.mask_suffix
            suffix = self.index.common_suffix(self.root)
            raise BadInput(
                f"{len(found)} images named {stem}, one was expected",
                where=found[0].parent if found else self.index.mask_folder(self.root, name),
                fix=command(f"--mask-suffix={suffix}") if suffix and not found else None,
            )
        return found[0]

    def read(self, name: str) -> Sample:
        """Read one image and its mask.

        Raises:
            BadInput: a file is missing or unusable, sizes differ, or the mask has unknown values.
        """
        image, mask = self.image(name), self.mask(name)
        frame = read_picture(image, self.reading, max_megapixels=MAX_MEGAPIXELS)
        values = read_mask(mask, max_megapixels=MAX_MEGAPIXELS)
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
    layout: str | None = None,
    mask_suffix: str = "",
    reading: Reading | None = None,
) -> Dataset:
    """Open a dataset.

    Args:
        root: the folder.
        vocabulary: how masks are read.
        layout: of ``LAYOUTS``; by default what is there decides.
        mask_suffix: what a mask's name has more than its image's, before the file's suffix.
        reading: how images are read; by default as they are stored.

    Raises:
        BadInput: of no layout, or of several; a split.json that cannot be used; or ``reading``
            changes no image.
    """
    root, reading = Path(root), reading or Reading()
    index = read_index(root, layout=layout, mask_suffix=mask_suffix)
    if index.layout == OWN and not (root / "masks").is_dir():
        raise BadInput("not a dataset: no masks/ in it", where=root)
    images = (image for entry in index.entries.values() for image in entry.images)
    refuse_idle_options(images, reading)
    return Dataset(root, vocabulary, index, mask_suffix, reading)


def choose_plan_split(
    dataset: Dataset, asked: str | None, report: Report, *, use: str = "plans are evaluated"
) -> str:
    """The split to choose on: the one that was asked for, ``plan``, or the only one, which is said.

    Args:
        dataset: that has it.
        asked: its name, or none.
        report: told where it is another one than ``plan``.
        use: what it is for, for people.

    Raises:
        BadInput: there is no such split.
    """
    split = dataset.choose_split(asked, "plan")
    if split != (asked or "plan"):
        saying(report)(
            f"{dataset.root}: no split plan, so {use} on {split}; "
            "results on it will look better than they are"
        )
    return split
