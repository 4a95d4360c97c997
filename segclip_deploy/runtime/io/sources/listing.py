"""Which files a run labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.frame import IMAGE_SUFFIXES
from segclip_deploy.runtime.io.raster.place import RASTER_SUFFIXES
from segclip_deploy.runtime.io.sources.naming import AREAS_FILE, SourceFile, name_results
from segclip_deploy.runtime.io.sources.video import is_video

__all__ = ["count_folders", "find_files"]

_SUFFIXES = (*IMAGE_SUFFIXES, *RASTER_SUFFIXES)


def find_files(sources: Iterable[Path], out: Path) -> list[SourceFile]:
    """All files that are named, and all images of the folders that are named.

    A folder is searched with its sub-folders. Left out are hidden ones, links to folders, ``out``,
    and folders of results of an earlier run, which hold an ``areas.jsonl``.

    Args:
        sources: images, videos, and folders of images.
        out: the folder that the results go to.

    Returns:
        in the order of the sources, a folder's images sorted by path.

    Raises:
        BadInput: a source that is not there, a folder without images, images inside ``out``, or
            two files whose results would have one name.
        OSError: a folder that may not be read.
    """
    sources, out = list(sources), out.resolve()
    for source in sources:
        if not source.exists():
            raise BadInput("no such file or folder", where=source)
    paths = [path for s in sources for path in (_search(s, out) if s.is_dir() else [s])]
    for path in paths:
        folder = path.parent.resolve()
        if out in (folder, *folder.parents) and not is_video(path):
            raise BadInput(
                "the results would lie among the images", where=out, fix="choose another -o"
            )
    return name_results(paths)


def count_folders(files: Sequence[SourceFile]) -> str | None:
    """How many images lie in how many folders, if in more than one."""
    images = [file.path for file in files if not is_video(file.path)]
    folders = {path.parent for path in images}
    return f"{len(images)} images in {len(folders)} folders" if len(folders) > 1 else None


def _search(folder: Path, out: Path) -> list[Path]:
    """The images of a folder and its sub-folders, sorted."""
    found: list[Path] = []
    for place, names, files in os.walk(folder, onerror=_refuse):
        here = Path(place)
        names[:] = [name for name in names if _is_searched(here / name, out)]
        found += [here / name for name in files if Path(name).suffix.lower() in _SUFFIXES]
    if not found:
        raise BadInput(
            f"no images in this folder or its sub-folders (looked for {' '.join(_SUFFIXES)})",
            where=folder,
        )
    return sorted(found)


def _is_searched(folder: Path, out: Path) -> bool:
    hidden = folder.name.startswith(".")
    return not (hidden or folder.resolve() == out or (folder / AREAS_FILE).exists())


def _refuse(error: OSError) -> None:
    """Without this, a folder that may not be read counts as empty."""
    raise error
