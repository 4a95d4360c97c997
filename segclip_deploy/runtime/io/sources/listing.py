"""The files of a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.frame import list_images
from segclip_deploy.runtime.io.naming import result_names
from segclip_deploy.runtime.io.sources.video import is_video

__all__ = ["find_files"]


def find_files(sources: Iterable[Path], out: Path) -> list[Path]:
    """All images and videos of some files and folders (of a folder, its images).

    Raises:
        BadInput: a source without images, ``out`` itself, or two whose results would have
            one name.
    """
    sources = list(sources)
    for source in sources:
        if not source.exists():
            raise BadInput("no such file or folder", where=source)
    found = [path for s in sources for path in ([s] if is_video(s) else list_images(s))]
    seen: dict[str, Path] = {}
    for path in found:
        if path.parent.resolve() == out.resolve() and not is_video(path):
            raise BadInput(
                "the results would lie among the images", where=out, fix="choose another -o"
            )
        for name in result_names(f"{path.stem}_*" if is_video(path) else path.stem):
            if name in seen:
                raise BadInput(
                    f"its results would overwrite those of {seen[name]}",
                    where=path,
                    fix="rename one, or run them into two folders",
                )
            seen[name] = path
    return found
