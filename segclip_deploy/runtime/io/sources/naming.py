"""How results are named after their sources."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.sources.video import is_video

__all__ = ["AREAS_FILE", "SourceFile", "name_results", "result_names"]

AREAS_FILE = "areas.jsonl"
"""Lies in every folder of results, and marks it as one."""


@dataclass(frozen=True)
class SourceFile:
    """A file to label.

    Attributes:
        path: as the user named it, or the folder that it was found in.
        name: of its results: a path below the output folder, without suffix, with forward slashes.
    """

    path: Path
    name: str


def result_names(name: str) -> tuple[str, str, str]:
    """File names of a frame's label map, overlay and margin."""
    return f"{name}.png", f"{name}.overlay.png", f"{name}.margin.png"


def name_results(paths: Sequence[Path]) -> list[SourceFile]:
    """Name the results of files: as the files lie below the deepest folder that holds all of them.

    Files of one folder have names without a slash.

    Raises:
        BadInput: the results of two files would have one name.
    """
    # Not resolve(): a link is where the user put it.
    places = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100
    common = os.path.commonpath([place.parent for place in places]) if places else ""
    found: list[SourceFile] = []
    seen: dict[str, Path] = {}
    for path, place in zip(paths, places, strict=True):
        name = place.relative_to(common).with_suffix("").as_posix()
        for result in result_names(f"{name}_*" if is_video(path) else name):
            if result in seen:
                raise BadInput(
                    f"its results would overwrite those of {seen[result]}",
                    where=path,
                    fix="rename one, or run them into two folders",
                )
            seen[result] = path
        found.append(SourceFile(path, name))
    return found
