"""Protocols: which pixels of a dataset are scored, and with how much ground around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.evaluation.choices import ProtocolName
from segclip_deploy.evaluation.dataset import Sample
from segclip_deploy.runtime.inference.frame import Frame

__all__ = ["JOINED", "Patches", "Protocol", "choose_protocol"]


@dataclass(frozen=True)
class Patches:
    """Squares that an image is cut into; the last of a row or column ends with the image.

    Attributes:
        side: pixels.
        overlap: of neighbours, pixels.
    """

    side: int
    overlap: int

    def starts(self, length: int) -> tuple[int, ...]:
        """Where patches begin along a side of an image."""
        last = max(length - self.side, 0)
        return tuple(sorted({min(start, last) for start in self._steps(length)}))

    def _steps(self, length: int) -> range:
        return range(0, length, self.side - self.overlap)

    def of(self, sample: Sample) -> Iterator[Sample]:
        """The patches of an image with its mask, smaller ones padded: black, and not scored."""
        height, width = sample.ground_truth.shape
        for top in self.starts(height):
            for left in self.starts(width):
                yield self._cut(sample, top, left)

    def _cut(self, sample: Sample, top: int, left: int) -> Sample:
        rows, columns = slice(top, top + self.side), slice(left, left + self.side)
        truth = sample.ground_truth[rows, columns]
        pad = ((0, self.side - truth.shape[0]), (0, self.side - truth.shape[1]))
        pixels = np.pad(sample.frame.pixels[rows, columns], (*pad, (0, 0)))
        truth = np.pad(truth, pad, constant_values=IGNORE_INDEX)
        return replace(sample, frame=Frame(pixels, sample.frame.source), ground_truth=truth)


@dataclass(frozen=True)
class Protocol:
    """How a dataset is scored.

    Attributes:
        name: as ``--protocol`` takes it.
        says: what is scored, for people.
        source: whose protocol it is; None where no published figure is of it.
        patches: that each image is cut into; None: each is labelled whole, its windows joined.
    """

    name: ProtocolName
    says: str
    source: str | None = None
    patches: Patches | None = None

    def parts(self, sample: Sample) -> Iterator[Sample]:
        """What is labelled and scored by itself of an image: its patches, or all of it."""
        return iter([sample]) if self.patches is None else self.patches.of(sample)

    def to_json(self) -> dict[str, str | None]:
        """Name, words and source."""
        return {"name": self.name, "says": self.says, "source": self.source}


_SAYS: Mapping[ProtocolName, str] = {
    "joined": "each image whole, its windows joined",
    "isaid-patches": "patches of 896 × 896 that overlap by 384, each labelled and scored alone",
}

_PATCHES: Mapping[ProtocolName, Patches] = {"isaid-patches": Patches(896, 384)}

_PUBLISHED: Mapping[str, tuple[ProtocolName, str, str]] = {
    "loveda": (
        "joined",
        "value 0, no data, is ignored",
        "Wang et al. 2021, https://github.com/Junjue-Wang/LoveDA",
    ),
    "uavid": (
        "joined",
        "frames of 4K, 8 classes with background clutter",
        "Lyu et al. 2020, https://uavid.nl",
    ),
    "isaid": (
        "isaid-patches",
        "16 classes with the background",
        "tools/dataset_converters/isaid.py of https://github.com/open-mmlab/mmsegmentation",
    ),
}
"""By vocabulary: the protocol of published figures, what belongs to it, and who says so."""


JOINED = Protocol("joined", _SAYS["joined"])
"""Each image whole: as it flies."""


def choose_protocol(name: ProtocolName, vocabulary: str) -> Protocol:
    """A protocol, in words that fit a vocabulary.

        choose_protocol("joined", "loveda").says
        # "each image whole, its windows joined; value 0, no data, is ignored"

    Args:
        name: of ``PROTOCOL_NAMES``.
        vocabulary: name of that of the dataset.
    """
    says, source = _SAYS[name], None
    if vocabulary in _PUBLISHED:
        published, adds, who = _PUBLISHED[vocabulary]
        if published == name:
            says, source = f"{says}; {adds}", who
        else:
            says = f"{says}; published figures are of --protocol {published}"
    return Protocol(name, says, source, _PATCHES.get(name))
