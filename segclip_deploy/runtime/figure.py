"""Figures of matplotlib, as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

__all__ = ["save_png"]


def save_png(figure: Any, file: Path | IO[bytes]) -> None:
    """Write a figure; its texts stand as they are: a class called ``$x_{`` is no formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    figure.savefig(file, format="png")
