"""``dataset``: what a dataset holds, and everything that is wrong with it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.dataset import MAX_MEGAPIXELS, Dataset
from segclip_deploy.evaluation.mask import read_mask
from segclip_deploy.progress import Report, silent
from segclip_deploy.runtime.formats.geotiff import ground_sample_distance
from segclip_deploy.runtime.io.pictures import read_picture

__all__ = ["DatasetReport", "Problem", "SplitReport", "survey_dataset"]

_SHOWN = 3  # cases of a problem


@dataclass(frozen=True)
class SplitReport:
    """A split.

    Attributes:
        images: how many it has.
        masks: how many of them have a mask.
        pixels: of all classes, ignored ones left out.
        classes: pixels by class.
        ignored: pixels without a class.
    """

    images: int
    masks: int
    pixels: int
    classes: Mapping[str, int]
    ignored: int


@dataclass(frozen=True)
class Problem:
    """What is wrong, once or often.

    Attributes:
        what: in words, without the file.
        count: how often.
        where: the first files.
    """

    what: str
    count: int
    where: tuple[str, ...]


@dataclass(frozen=True)
class DatasetReport:
    """What a dataset is.

    Attributes:
        root: the folder.
        layout: its name.
        source: who defines the layout.
        vocabulary: the title of the classes that its masks were read with.
        held_out: whether ``plan`` was taken out of the publisher's ``train``: whole scenes, by their names.
        ground_sample_distance_m: least and greatest, metres, as the files say; else what the vocabulary says of
            all; None where neither does.
        sizes: how many images there are of each size, ``"WIDTHxHEIGHT"``, the most frequent first.
        splits: by name.
        problems: everything that is wrong.
    """

    root: Path
    layout: str
    source: str
    vocabulary: str
    held_out: bool
    ground_sample_distance_m: tuple[float, float] | None
    sizes: Mapping[str, int]
    splits: Mapping[str, SplitReport]
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "root": str(self.root)}


@dataclass
class _Found:
    """What was seen so far."""

    sizes: Counter[str] = field(default_factory=Counter)
    metres: list[float] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)
    homes: dict[str, dict[str, str]] = field(default_factory=dict)  # picture → split → image

    def wrong(self, what: str, where: object) -> None:
        self.problems.setdefault(what, []).append(str(where))


def survey_dataset(data: Dataset, *, source: str, report: Report = silent) -> DatasetReport:
    """Read every image and mask of a dataset.

    Args:
        data: the dataset.
        source: who defines its layout.
        report: of progress.
    """
    found, splits, done = _Found(), {}, 0
    total = sum(map(len, data.splits.values()))
    for split, names in data.splits.items():
        counts, masks = np.zeros(IGNORE_INDEX + 1, np.int64), 0
        for name in names:
            masks += _survey_image(data, split, name, found, counts)
            done += 1
            report("reading images", done, total)
        classes = dict(zip(data.vocabulary.names, map(int, counts), strict=False))
        splits[split] = SplitReport(
            len(names), masks, sum(classes.values()), classes, int(counts[IGNORE_INDEX])
        )
        if 0 < masks < len(names):
            found.wrong(f"split {split}: {len(names) - masks} images have no mask", data.root)
    for homes in found.homes.values():
        if len(homes) > 1:
            found.wrong(
                f"one picture in the splits {' and '.join(homes)}", ", ".join(homes.values())
            )
    stated = data.vocabulary.ground_sample_distance_m
    metres = found.metres or ([stated] if stated else [])
    return DatasetReport(
        root=data.root,
        layout=data.index.layout,
        source=source,
        vocabulary=data.vocabulary.title,
        held_out=data.index.held_out,
        ground_sample_distance_m=(min(metres), max(metres)) if metres else None,
        sizes=dict(found.sizes.most_common()),
        splits=splits,
        problems=tuple(
            Problem(what, len(where), tuple(where[:_SHOWN]))
            for what, where in found.problems.items()
        ),
    )


def _survey_image(
    data: Dataset, split: str, name: str, found: _Found, counts: np.ndarray[Any, Any]
) -> bool:
    """Look at an image and its mask; whether there is one."""
    entry = data.index.entries.get(name)
    masked = bool(entry and entry.masks)
    try:
        image = data.image(name)
        frame = read_picture(image, data.reading, max_megapixels=MAX_MEGAPIXELS)
    except BadInput as error:
        found.wrong(error.what, error.where)
        return masked
    height, width = frame.pixels.shape[:2]
    found.sizes[f"{width}x{height}"] += 1
    if (metres := ground_sample_distance(image)) is not None:
        found.metres.append(metres)
    picture = hashlib.sha256(frame.pixels.tobytes()).hexdigest()
    found.homes.setdefault(picture, {}).setdefault(split, str(image))
    if not masked:
        return False
    try:
        mask = data.mask(name)
        values = read_mask(mask, max_megapixels=MAX_MEGAPIXELS)
        if values.shape[:2] != (height, width):
            found.wrong("a mask of another size than its image", mask)
            return True
        labels = data.vocabulary.decode_mask(values, where=mask)
    except BadInput as error:
        found.wrong(error.what, error.where)
        return True
    counts += np.bincount(labels.ravel(), minlength=IGNORE_INDEX + 1)
    return True
