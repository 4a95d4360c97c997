"""The names of the layouts of datasets; ``layouts`` has what they are."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["LAYOUT_NAMES", "LayoutName"]

LayoutName = Literal["segclip-deploy", "loveda", "uavid", "isaid", "mmseg"]

LAYOUT_NAMES: tuple[LayoutName, ...] = get_args(LayoutName)
