"""Blocks of the model, as its nodes' names tell them: ``<block>/<operator>``."""

from __future__ import annotations

__all__ = ["block_of"]


def block_of(node_name: str) -> str:
    """The block of a node; ``""`` for one whose name tells none."""
    return node_name.partition("/")[0] if "/" in node_name else ""
