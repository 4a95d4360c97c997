"""Words that commands take for datasets; ``layouts`` and ``protocols`` have what they are."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["LAYOUT_NAMES", "PROTOCOL_NAMES", "LayoutName", "ProtocolName"]

LayoutName = Literal["segclip-deploy", "loveda", "uavid", "isaid", "mmseg"]

LAYOUT_NAMES: tuple[LayoutName, ...] = get_args(LayoutName)

ProtocolName = Literal["joined", "isaid-patches"]

PROTOCOL_NAMES: tuple[ProtocolName, ...] = get_args(ProtocolName)
