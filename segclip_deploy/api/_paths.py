"""Paths as people write them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

__all__ = ["AnyPath", "AnyPaths", "optional_path", "paths_of", "texts_of"]

AnyPath: TypeAlias = "str | Path"
AnyPaths: TypeAlias = "str | Path | Iterable[str | Path]"


def optional_path(path: AnyPath | None) -> Path | None:
    """A path, or none."""
    return None if path is None else Path(path)


def paths_of(paths: AnyPaths) -> tuple[Path, ...]:
    """One path, or several."""
    return (Path(paths),) if isinstance(paths, str | Path) else tuple(map(Path, paths))


def texts_of(sources: AnyPaths) -> list[str]:
    """One source or several, which may be URLs."""
    return [str(sources)] if isinstance(sources, str | Path) else [str(s) for s in sources]
