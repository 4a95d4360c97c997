"""Images of a split, read when they are needed; those that were needed last stay in memory."""

from __future__ import annotations

import ctypes
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.evaluation.dataset import Dataset

__all__ = ["ImageCache", "LabelledPixels"]


class LabelledPixels(NamedTuple):
    """An image (H, W, 3) and its ground truth (H, W), decoded."""

    pixels: NDArray[np.uint8]
    ground_truth: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.pixels.nbytes + self.ground_truth.nbytes


class ImageCache:
    """The images of a split by index. Of what was read, ``limit`` bytes are kept, the last used.

    All are read once at the beginning: how large each is decides how often it is drawn, and one that
    cannot be used ends a training before it begins, and not after a night.

    Args:
        dataset: where they are.
        split: of it.
        limit: bytes of decoded images and ground truth.
        report: told how many of how many were read.

    Attributes:
        areas: pixels of each image.
        whole: all of them are kept.

    Raises:
        BadInput: an image or its mask cannot be used.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        limit: int,
        report: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self._dataset, self._names, self._limit = dataset, dataset.names(split), limit
        self._held: OrderedDict[int, LabelledPixels] = OrderedDict()
        self._bytes = 0
        areas = []
        for index in range(len(self._names)):
            areas.append(self.read(index).ground_truth.size)
            report(index + 1, len(self._names))
        self.areas = tuple(areas)
        self.whole = len(self._held) == len(self._names)

    @property
    def nbytes(self) -> int:
        """What is kept, bytes."""
        return self._bytes

    def read(self, index: int) -> LabelledPixels:
        """An image, from memory or from its file.

        Raises:
            BadInput: it cannot be used.
        """
        if (held := self._held.get(index)) is not None:
            self._held.move_to_end(index)
            return held
        sample = self._dataset.read(self._names[index])
        read = LabelledPixels(sample.frame.pixels, sample.ground_truth)
        if read.nbytes <= self._limit:
            self._drop_to(self._limit - read.nbytes)
            self._held[index] = read
            self._bytes += read.nbytes
        return read

    def share(self, readers: int) -> None:
        """Keep no more than the share of one of several processes that have this cache.

        Where all images fit, nothing is dropped: a forked process has the memory of its parent.
        """
        if not self.whole:
            self._limit //= readers
            self._drop_to(self._limit)

    def clear(self) -> None:
        """Keep nothing, unless it is everything."""
        if not self.whole:
            self._drop_to(0)
            _give_back()

    def _drop_to(self, size: int) -> None:
        while self._bytes > size:
            _, oldest = self._held.popitem(last=False)
            self._bytes -= oldest.nbytes


def _give_back() -> None:
    """Return freed memory to the system. Once glibc has seen large arrays freed, it keeps the next ones."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none, and keeps nothing
        if trim is not None:
            trim(0)
