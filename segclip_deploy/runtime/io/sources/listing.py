"""Which files a run labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.formats.address import display_name
from segclip_deploy.runtime.formats.georeference import RASTER_SUFFIXES
from segclip_deploy.runtime.formats.kinds import IMAGE_SUFFIXES, Kind, kind_of
from segclip_deploy.runtime.inference.frame import is_image_name
from segclip_deploy.runtime.io.sources.naming import AREAS_FILE, SourceFile, name_results

__all__ = ["count_folders", "find_files"]

_PREVIEWS = (".lrf", ".lrv", ".thm")  # that DJI and GoPro put beside each film
_PAGED = ".gif"
_MASKS_OF = {
    "masks": "images",
    "masks_png": "images_png",
    "labels": "images",
    "ann_dir": "img_dir",
    "semantic_masks": "images",
    "instance_masks": "images",
}
"""Folders of a dataset's masks, and the folder of its images, which lies beside them."""


def find_files(sources: Iterable[Path], out: Path, *, videos: bool = True) -> list[SourceFile]:
    """All files that are named, and all images and videos of the folders that are named.

    A folder is searched with its sub-folders. Left out are hidden ones and hidden files, links to
    folders, ``out``, folders of results of an earlier run, which hold an ``areas.jsonl``, and the
    masks of a dataset, which lie beside its images.

    Args:
        sources: images, videos, and folders of them.
        out: the folder that the results go to.
        videos: whether those in folders are taken, too.

    Returns:
        in the order of the sources, a folder's files sorted by path.

    Raises:
        BadInput: a source that is not there, a folder without any, images inside ``out``, or
            two files whose results would have one name.
        OSError: a folder that may not be read.
    """
    sources, out = list(sources), out.resolve()
    for source in sources:
        if not source.exists():
            raise BadInput("no such file or folder", where=display_name(str(source)))
    files = name_results(
        [path for s in sources for path in (_search(s, out, videos) if s.is_dir() else [s])]
    )
    for file in files:
        folder = file.path.parent.resolve()
        if out in (folder, *folder.parents) and not file.is_film:
            raise BadInput(
                "the results would lie among the images", where=out, fix="choose another -o"
            )
    return files


def count_folders(files: Sequence[SourceFile]) -> str | None:
    """How many images and videos lie in how many folders, if in more than one."""
    folders = {file.path.parent for file in files}
    if len(folders) < 2:
        return None
    films = sum(file.is_film for file in files)
    counts = {"images": len(files) - films, "videos": films}
    told = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{told} in {len(folders)} folders"


def _search(folder: Path, out: Path, videos: bool) -> list[Path]:
    """The images and videos of a folder and its sub-folders, sorted."""
    found: list[Path] = []
    for place, names, files in os.walk(folder, onerror=_refuse):
        here = Path(place)
        names[:] = [name for name in names if _is_searched(here / name, out)]
        found += [here / name for name in files if _is_taken(here / name, videos)]
    if not found:
        suffixes = " ".join((*IMAGE_SUFFIXES, *RASTER_SUFFIXES))
        raise BadInput(
            "no images in this folder or its sub-folders (looked for "
            f"{suffixes}{', and for videos' if videos else ''})",
            where=folder,
        )
    return sorted(found)


def _is_taken(file: Path, videos: bool) -> bool:
    suffix = file.suffix.lower()
    if file.name.startswith(".") or suffix in _PREVIEWS:
        return False
    return (
        is_image_name(file)
        or suffix in RASTER_SUFFIXES
        or (videos and (suffix == _PAGED or kind_of(file) is not Kind.PICTURE))
    )


def _is_searched(folder: Path, out: Path) -> bool:
    hidden = folder.name.startswith(".")
    images = _MASKS_OF.get(folder.name.lower())
    masks = images is not None and any(
        (folder.parent / name).is_dir() for name in (images, images.capitalize())
    )
    return not (hidden or masks or folder.resolve() == out or (folder / AREAS_FILE).exists())


def _refuse(error: OSError) -> None:
    """Without this, a folder that may not be read counts as empty."""
    raise error
