"""What layers of an engine compute in, and the share of a plan that runs as planned."""

from __future__ import annotations

from segclip_deploy.artifacts.records import Record

__all__ = ["Layer"]


class Layer(Record, frozen=True):
    """A layer of an engine, as its library tells it.

    Attributes:
        name: the library's.
        type: of layer; None where it is not told.
        blocks: of the model that it was made of.
        reads, writes: element types; None for one that is not told.
    """

    name: str
    type: str | None
    blocks: tuple[str, ...]
    reads: tuple[str | None, ...]
    writes: tuple[str | None, ...]
