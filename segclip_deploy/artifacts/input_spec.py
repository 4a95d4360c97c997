"""InputSpec: the images that a graph takes."""

from __future__ import annotations

from collections.abc import Iterable

from segclip_deploy.artifacts.records import Record
from segclip_deploy.errors import BadInput

__all__ = ["InputSpec", "describe_shape"]


def describe_shape(batches: range, sides: Iterable[int]) -> str:
    """A shape for people: ``(1..8, 512, 512, 3)``."""
    least, most = batches.start, batches.stop - 1
    batch = str(most) if least == most else f"{least}..{most}"
    return f"({', '.join([batch, *map(str, sides)])})"


class InputSpec(Record, frozen=True):
    """What a model's graph takes: uint8 RGB images (batch, height, width, 3).

    Attributes:
        height: pixels, static.
        width: pixels, static.
        batch: images per inference; the most of them, where ``min_batch`` is given.
        min_batch: the fewest images per inference; None: always ``batch``.
        overlap: pixels that neighbouring windows of a larger image share, a multiple of 4; None: a
            quarter of the shorter side. It is no part of the graph: whoever flies may choose another.

    Raises:
        BadInput: a range of batches without any, or one below 1; sides that are no sizes; an
            overlap that is negative, no multiple of 4, or as large as the shorter side.

    Examples:
        >>> from segclip_deploy import InputSpec
        >>> InputSpec(512, 512, batch=8, min_batch=1).sides
        '(1..8, 512, 512, 3)'
    """

    height: int
    width: int
    batch: int = 1
    min_batch: int | None = None
    overlap: int | None = None

    def __post_init__(self) -> None:
        sizes = (self.height, self.width, self.batch)
        if max(sizes) > 0xFFFF or min(sizes[:2]) < 1:
            raise BadInput(f"an input of {self.height!r}×{self.width!r} cannot be")
        if not self.batches or self.batches.start < 1:
            raise BadInput(f"batches from {self.batches.start} to {self.batch} cannot be")
        shared, shorter = self.overlap or 0, min(sizes[:2])
        if not 0 <= shared < shorter or shared % 4:  # the stride of the logits, in every graph
            raise BadInput(f"overlap {shared} is not a multiple of 4 from 0 to below {shorter}")

    @property
    def batches(self) -> range:
        """Every number of images that an inference takes."""
        return range(self.batch if self.min_batch is None else self.min_batch, self.batch + 1)

    @property
    def sides(self) -> str:
        """The shape, for people."""
        return describe_shape(self.batches, (self.height, self.width, 3))
