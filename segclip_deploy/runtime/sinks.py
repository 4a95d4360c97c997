"""Where label maps go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segclip_deploy.artifacts import replace_file
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.frame import Frame
from segclip_deploy.runtime.segmenter import LabelMap
from segclip_deploy.vocabulary import Vocabulary

__all__ = ["AREAS_FILE", "FolderSink", "class_areas", "overlay", "result_names"]

AREAS_FILE = "areas.jsonl"
_OPACITY = 0.45  # of the class colours over the image


class FolderSink:
    """Writes a frame's label map, its overlay, its margin if any, and a line of ``areas.jsonl``.

    The label map ``NAME.png`` holds class indices under a palette; ``NAME.margin.png`` is grey,
    one pixel for 4 × 4 of the frame's.

    Args:
        folder: made if absent; if it holds anything, it must hold an ``areas.jsonl`` of before.
        vocabulary: palette and names.

    Raises:
        BadInput: the folder holds something else, which a label map might overwrite.
    """

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
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
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.vocabulary = folder, vocabulary
        self._areas = marker.open("w", encoding="utf-8")

    def __enter__(self) -> FolderSink:
        return self

    def __exit__(self, *_: object) -> None:
        self._areas.close()

    def write(self, name: str, frame: Frame, result: LabelMap) -> None:
        """Write one frame's results under ``name``."""
        labels = Image.fromarray(result.labels)
        labels.putpalette(self.vocabulary.palette.tobytes())
        labels_name, overlay_name, margin_name = result_names(name)
        with replace_file(self.folder / labels_name) as temporary:
            labels.save(temporary, format="PNG")
        with replace_file(self.folder / overlay_name) as temporary:
            mixed = overlay(frame.pixels, result.labels, self.vocabulary.palette)
            Image.fromarray(mixed).save(temporary, format="PNG")
        if result.margin is None:
            (self.folder / margin_name).unlink(missing_ok=True)  # of an earlier run
        else:
            with replace_file(self.folder / margin_name) as temporary:
                Image.fromarray(result.margin).save(temporary, format="PNG")
        line = {
            "image": frame.source,
            "labels": labels_name,
            "margin": None if result.margin is None else margin_name,
            "areas": class_areas(result.labels, self.vocabulary.names),
            "windows": result.windows,
            "ms": {
                "prepare": round(result.times.prepare, 3),
                "infer": round(result.times.infer, 3),
                "restore": round(result.times.restore, 3),
            },
        }
        self.write_line(line)

    def write_line(self, line: Mapping[str, Any]) -> None:
        """Add a line to ``areas.jsonl``."""
        self._areas.write(json.dumps(line, allow_nan=False) + "\n")
        self._areas.flush()


def result_names(name: str) -> tuple[str, str, str]:
    """File names of a frame's label map, overlay and margin."""
    return f"{name}.png", f"{name}.overlay.png", f"{name}.margin.png"


def class_areas(labels: NDArray[np.uint8], names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Pixels and share of each class in a label map (H, W)."""
    counts = np.bincount(labels.ravel(), minlength=len(names))
    return {
        name: {"pixels": int(count), "share": round(float(count / labels.size), 6)}
        for name, count in zip(names, counts, strict=True)
    }


def overlay(
    pixels: NDArray[np.uint8], labels: NDArray[np.uint8], palette: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The image (H, W, 3) with the colour of each pixel's class over it."""
    mixed = (1 - _OPACITY) * pixels + _OPACITY * palette[labels]
    return np.round(mixed).astype(np.uint8)
