"""The names of the methods that read a range off a histogram; ``ranges`` has what they do."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["METHOD_NAMES", "Method"]

Method = Literal["percentile", "entropy", "mse", "minmax"]

METHOD_NAMES: tuple[Method, ...] = get_args(Method)
"""The default first."""
