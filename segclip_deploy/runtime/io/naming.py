"""The names of results."""

from __future__ import annotations

__all__ = ["AREAS_FILE", "result_names"]

AREAS_FILE = "areas.jsonl"


def result_names(name: str) -> tuple[str, str, str]:
    """File names of a frame's label map, overlay and margin."""
    return f"{name}.png", f"{name}.overlay.png", f"{name}.margin.png"
