"""A folder of results."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from segclip_deploy.artifacts.files import remove_unfinished
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.drawing import label_image, png
from segclip_deploy.runtime.io.sinks.base import FrameResult, RasterResult, WriteTimes
from segclip_deploy.runtime.io.sinks.line_log import LineLog, older_lines
from segclip_deploy.runtime.io.sinks.lines import LineFile, frame_line, raster_line
from segclip_deploy.runtime.io.sinks.storage import Storage
from segclip_deploy.runtime.io.sources.naming import AREAS_FILE, result_names

__all__ = ["FolderSink"]

_FLUSH_S = 1.0  # between two flushes of names and lines; pictures are flushed one by one


class FolderSink:
    """Writes a frame's label map, its overlay, its margin if any, and then a line of ``areas.jsonl``.

    The label map ``NAME.png`` holds class indices under a palette; ``NAME.margin.png`` is grey,
    one pixel for 4 × 4 of the frame's. docs/reference/lines.md describes the line. Of a raster there is a
    line only: its label map is a file already.

    Args:
        folder: made if absent; if it holds anything, it must hold an ``areas.jsonl`` of before.
            A result with a slash in its name goes to a sub-folder.
        overlays: whether to write them.
        lines: gets a copy of every line.
        keep: bytes that the images in it and its sub-folders may take; the oldest are removed.
        log: of a service: takes the lines. What is written then survives a power cut, but for the
            names and lines of the last second; unfinished files of a killed process are removed.

    Raises:
        BadInput: the folder holds something else, which a label map might overwrite.
    """

    def __init__(
        self,
        folder: Path,
        *,
        overlays: bool = True,
        lines: LineFile | None = None,
        keep: int | None = None,
        log: LineLog | None = None,
    ) -> None:
        marker = folder / AREAS_FILE
        markers = (marker, older_lines(marker))  # killed between the two, there is the older one
        if folder.exists() and not (
            folder.is_dir() and (any(m.exists() for m in markers) or not any(folder.iterdir()))
        ):
            raise BadInput(
                f"exists and was not written by this command (no {AREAS_FILE}); "
                "it will not be written into",
                where=folder,
                fix="choose a new folder with -o",
            )
        if log:
            remove_unfinished(folder)
        self.folder = folder
        self.storage = Storage(keep, folder.rglob("*.png"), flushed=log is not None)
        self._log, self._flushed = log, 0.0
        self._overlays = overlays
        self._lines: list[LineFile | LineLog] = [lines] if lines else []
        self._opened = ExitStack()

    def __enter__(self) -> FolderSink:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._log:
            self._lines.insert(0, self._opened.enter_context(self._log))
        else:
            path = self.folder / AREAS_FILE
            stream = self._opened.enter_context(path.open("ab", buffering=0))
            self._lines.insert(0, LineFile(stream, str(path), anew=True))
        return self

    def __exit__(self, *_: object) -> None:
        with self._opened:
            if self._log:
                self._flush(self._log)

    def write(self, result: FrameResult | RasterResult) -> WriteTimes:
        """Write a result's images, and its line when they are there.

        Raises:
            OSError: something could not be written; no file is there in part.
        """
        started = time.perf_counter()
        if isinstance(result, RasterResult):
            self._write_line(raster_line(result))
            return WriteTimes(1e3 * (time.perf_counter() - started))
        self._write_images(result)
        now = time.perf_counter()
        times = WriteTimes(1e3 * (now - started), 1e3 * (now - result.shot.clock))
        self._write_line(frame_line(result, times))
        return times

    def _write_images(self, result: FrameResult) -> None:
        labels_name, overlay_name, margin_name = result_names(result.name)
        labels = margin = None
        if result.labelled is not None:
            labels = label_image(result.labelled.labels, result.vocabulary.palette)
            if result.labelled.margin is not None:
                margin = Image.fromarray(result.labelled.margin)
        self._put(labels_name, labels)
        self._put(overlay_name, result.overlay if self._overlays else None)
        self._put(margin_name, margin)

    def _put(self, name: str, image: Image.Image | None) -> None:
        """Write an image, or remove that of an earlier run, which would not belong to its labels."""
        path = self.folder / name
        if image is None:
            self.storage.remove(path)
        else:
            self.storage.write(path, png(image))

    def _write_line(self, line: str) -> None:
        for file in self._lines:
            file.write(line)
        now = time.perf_counter()
        if self._log and now - self._flushed >= _FLUSH_S:
            self._flushed = now
            self._flush(self._log)

    def _flush(self, log: LineLog) -> None:
        """Names first: a line never says more than what is on the disk."""
        self.storage.flush()
        log.flush()
