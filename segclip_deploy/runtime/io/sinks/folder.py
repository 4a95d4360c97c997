"""Where label maps go."""

from __future__ import annotations

import io
import json
import time
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, UNLABELLED, Vocabulary
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.segmenter import LabelMap
from segclip_deploy.runtime.io.naming import AREAS_FILE, result_names
from segclip_deploy.runtime.io.sinks.storage import LineFile, Storage
from segclip_deploy.runtime.io.sinks.video import VideoWriter
from segclip_deploy.runtime.io.sources.base import Shot

__all__ = [
    "FolderSink",
    "Written",
    "class_areas",
    "overlay",
    "stage_ms",
]

_OPACITY = 0.45  # of the class colours over the image
_PNG = {"compress_level": 1, "compress_type": zlib.Z_RLE}
"""Runs only. Of 1600×900 labels this takes 7 ms and 28 kB, Pillow's default 15 ms and 33 kB; of their
overlays 120 ms and 2.7 MB, the default 474 ms and 2.6 MB (CPU time, AMD EPYC, Pillow 13)."""


@dataclass(frozen=True)
class Written:
    """What became of a label map after it was there.

    Attributes:
        write_ms: encoding and writing its files.
        age_ms: of the frame when its line was written.
    """

    write_ms: float
    age_ms: float


class FolderSink:
    """Writes a frame's label map, its overlay, its margin if any, and a line of ``areas.jsonl``.

    The label map ``NAME.png`` holds class indices under a palette; ``NAME.margin.png`` is grey,
    one pixel for 4 × 4 of the frame's. docs/streams.md describes the line.

    Args:
        folder: made if absent; if it holds anything, it must hold an ``areas.jsonl`` of before.
        vocabulary: palette and names.
        overlays: whether to write them.
        lines: gets a copy of every line.
        video: gets every overlay.
        keep: bytes that the images in the folder may take; the oldest are removed.

    Raises:
        BadInput: the folder holds something else, which a label map might overwrite.
    """

    def __init__(
        self,
        folder: Path,
        vocabulary: Vocabulary,
        *,
        overlays: bool = True,
        lines: LineFile | None = None,
        video: VideoWriter | None = None,
        keep: int | None = None,
    ) -> None:
        marker = folder / AREAS_FILE
        if folder.exists() and not (
            folder.is_dir() and (marker.exists() or not any(folder.iterdir()))
        ):
            raise BadInput(
                f"exists and was not written by this command (no {AREAS_FILE}); "
                "it will not be written into",
                where=folder,
                fix="choose a new folder with -o",
            )
        self.folder, self.vocabulary = folder, vocabulary
        self.storage = Storage(keep, folder.glob("*.png"))
        self._overlays, self._video = overlays, video
        self._lines = [lines] if lines else []
        self._opened = ExitStack()

    def __enter__(self) -> FolderSink:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / AREAS_FILE
        stream = self._opened.enter_context(path.open("ab", buffering=0))
        self._lines.insert(0, LineFile(stream, str(path), anew=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()
        if self._video is not None:
            self._video.close()

    def write(
        self, shot: Shot, result: LabelMap | None, facts: Mapping[str, Any] | None = None
    ) -> Written:
        """Write one frame's results.

        Args:
            result: None for a frame that was skipped: it gets a line only.
            facts: more entries of its line.

        Raises:
            OSError: something could not be written; no file is there in part.
        """
        started = time.perf_counter()
        labels_name, overlay_name, margin_name = result_names(shot.name)
        mixed = None
        if result is not None and (self._overlays or self._video):
            mixed = overlay(shot.frame.pixels, result.labels, self.vocabulary.palette)
        margin = None if result is None else result.margin
        self._put(labels_name, None if result is None else self._labels_image(result.labels))
        self._put(overlay_name, None if mixed is None or not self._overlays else mixed)
        self._put(margin_name, None if margin is None else Image.fromarray(margin))
        if mixed is not None and self._video is not None:
            self._video.write(np.asarray(mixed), shot.seconds)
        areas = None if result is None else class_areas(result.labels, self.vocabulary.names)
        now = time.perf_counter()
        written = Written(1e3 * (now - started), 1e3 * (now - shot.clock))
        line = {
            "image": shot.frame.source,
            "index": shot.index,
            "time": shot.capture.time,
            "seconds": shot.seconds,
            "gps": asdict(shot.capture.position) if shot.capture.position else None,
            "labels": None if result is None else labels_name,
            "margin": None if margin is None else margin_name,
            "areas": areas,
            "windows": 0 if result is None else result.windows,
            "age_ms": round(written.age_ms, 3),
            **(facts or {}),
            "ms": {k: round(v, 3) for k, v in stage_ms(shot, result, written).items()},
        }
        self.write_line(line)
        return written

    def write_line(self, line: Mapping[str, Any]) -> None:
        """Add a line to ``areas.jsonl``, and to its copy."""
        for file in self._lines:
            file.write(json.dumps(line, allow_nan=False))

    def _labels_image(self, labels: NDArray[np.uint8]) -> Image.Image:
        image = Image.fromarray(labels)
        palette = self.vocabulary.palette
        if labels.max() == IGNORE_INDEX:  # black
            palette = np.pad(palette, ((0, 1 + IGNORE_INDEX - len(palette)), (0, 0)))
        image.putpalette(palette.tobytes())
        return image

    def _put(self, name: str, image: Image.Image | None) -> None:
        """Write an image, or remove that of an earlier run, which would not belong to its labels."""
        if image is None:
            self.storage.remove(self.folder / name)
            return
        data = io.BytesIO()  # in memory first: its size must be known before room is made
        image.save(data, format="PNG", **_PNG)
        self.storage.write(self.folder / name, data.getvalue())


def stage_ms(shot: Shot, result: LabelMap | None, written: Written) -> dict[str, float]:
    """Milliseconds of each stage of a frame, in order."""
    times = {} if result is None else asdict(result.times)
    return {"read": shot.read_ms, **times, "write": written.write_ms}


def class_areas(labels: NDArray[np.uint8], names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Pixels and share of each class in a label map (H, W), and of ``unlabelled`` if there are any."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE_INDEX + 1)
    found = dict(zip(names, counts, strict=False))
    if counts[IGNORE_INDEX]:
        found[UNLABELLED] = counts[IGNORE_INDEX]
    return {
        name: {"pixels": int(count), "share": round(float(count / labels.size), 6)}
        for name, count in found.items()
    }


def overlay(
    pixels: NDArray[np.uint8], labels: NDArray[np.uint8], palette: NDArray[np.uint8]
) -> Image.Image:
    """The image (H, W, 3) with the colour of each pixel's class over it; bare where it has none."""
    image = Image.fromarray(pixels)
    colours = Image.fromarray(labels)
    colours.putpalette(palette.tobytes())
    mixed = Image.blend(image, colours.convert("RGB"), _OPACITY)
    if labels.max() == IGNORE_INDEX:
        mixed.paste(image, mask=Image.fromarray(labels == IGNORE_INDEX))
    return mixed
