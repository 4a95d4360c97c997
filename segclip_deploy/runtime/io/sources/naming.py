"""How results are named after their sources."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.formats.address import Address
from segclip_deploy.runtime.formats.kinds import Kind, kind_of
from segclip_deploy.runtime.io.pages import count_pages
from segclip_deploy.runtime.io.sources.video import count_frames, has_many_frames

__all__ = ["AREAS_FILE", "RemoteFilm", "SourceFile", "name_results", "result_names"]

AREAS_FILE = "areas.jsonl"
"""Lies in every folder of results, and marks it as one."""


@dataclass(frozen=True)
class SourceFile:
    """A file to label.

    Attributes:
        path: as the user named it, or the folder that it was found in.
        name: of its results: a path below the output folder, without suffix, with forward slashes.
        address: where it was fetched from; ``path`` is then a copy.
    """

    path: Path
    name: str
    address: Address | None = None

    @property
    def shown(self) -> str:
        """What lines and errors call it; never with a password."""
        return str(self.address or self.path)

    @cached_property
    def is_film(self) -> bool:
        """Whether FFmpeg reads it, by its first bytes."""
        kind = kind_of(self.path)
        return kind is Kind.FILM or (kind is Kind.JPEG and has_many_frames(self.path))

    @cached_property
    def pages(self) -> int | None:
        """How many pages a picture has; None of films, and of ordinary pictures."""
        return None if self.is_film else count_pages(self.path)

    @property
    def is_series(self) -> bool:
        """Whether the names of its results are numbered."""
        return self.is_film or self.pages is not None

    def count(self) -> int | None:
        """How many frames are in it; None where only reading it tells."""
        return count_frames(self.path) if self.is_film else self.pages or 1


@dataclass(frozen=True)
class RemoteFilm:
    """A film on a server that ends, which is read from there.

    Attributes:
        address: of the film, or of the list of its parts.
        name: of its results.
    """

    address: Address
    name: str

    @property
    def shown(self) -> str:
        """What lines and errors call it; never with a password."""
        return str(self.address)

    def count(self) -> None:
        """How many frames are in it: only reading it tells."""


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
        file = SourceFile(path, name)
        for result in result_names(f"{name}_*" if file.is_series else name):
            if result in seen:
                raise BadInput(
                    f"its results would overwrite those of {seen[result]}",
                    where=path,
                    fix="rename one, or run them into two folders",
                )
            seen[result] = path
        found.append(file)
    return found
