"""``run``: images through a segmenter into a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.frame import list_images, read_frame
from segclip_deploy.runtime.segmenter import LabelMap, Segmenter
from segclip_deploy.runtime.sinks import FolderSink, result_names

__all__ = ["Outcome", "find_images", "segment_images"]


@dataclass(frozen=True)
class Outcome:
    """What became of one image: a result, or the reason why there is none."""

    path: Path
    result: LabelMap | None
    error: BadInput | None


def find_images(sources: Iterable[Path], out: Path) -> list[Path]:
    """All images of some files and folders.

    Raises:
        BadInput: a source without images, ``out`` itself, or two images whose results would
            have one name.
    """
    paths = [path for source in sources for path in list_images(source)]
    seen: dict[str, Path] = {}
    for path in paths:
        if path.parent.resolve() == out.resolve():
            raise BadInput(
                "the results would lie among the images", where=out, fix="choose another -o"
            )
        for name in result_names(path.stem):
            if name in seen:
                raise BadInput(
                    f"its results would overwrite those of {seen[name]}",
                    where=path,
                    fix="rename one, or run them into two folders",
                )
            seen[name] = path
    return paths


def segment_images(
    segmenter: Segmenter, paths: Iterable[Path], sink: FolderSink
) -> Iterator[Outcome]:
    """Segment images one by one; a bad one is an outcome like any other, and the next goes on."""
    for path in paths:
        try:
            frame = read_frame(path)
            result = segmenter.segment(frame)
        except BadInput as error:
            yield Outcome(path, None, error)
            continue
        sink.write(path.stem, frame, result)
        yield Outcome(path, result, None)
