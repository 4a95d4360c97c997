"""How long work tells how far it is, and what a user should know meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

__all__ = ["Report", "Say", "saying", "silent", "stage"]

Report = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and how much there is in all; 0 in all where nobody
knows. With 0 of 0 the text is a line to be shown, and no stage of the work."""

Say = Callable[[str], None]
"""Called with a line to be shown."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def saying(report: Report) -> Say:
    """Tell ``report`` lines."""

    def say(line: str) -> None:
        report(line, 0, 0)

    return say


def stage(report: Report, what: str) -> Callable[[int, int], None]:
    """Tell ``report`` how far one stage is."""
    return partial(report, what)
