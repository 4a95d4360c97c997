"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Report", "silent"]

Report = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and how much there is; 0 in all where nobody knows."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""
