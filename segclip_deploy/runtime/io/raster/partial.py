"""Rows that are finished, kept beside the output until it is whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.artifacts.files import read_json, write_json
from segclip_deploy.errors import BadArtifact, BadInput

__all__ = ["Partial"]


class Partial:
    """A folder ``.segclip-deploy.NAME.partial`` with labels, uncompressed, and how many rows are finished.

    It survives the process, and the power going: rows are on the disk before they count.

    Args:
        out: the output it becomes.
        shape: (H, W) of the labels.
        digest: of all that decides the labels; finished rows of another are dropped.

    Attributes:
        folder: gone with ``remove``.
        labels: the file, W bytes a row.
        rows: finished.

    Raises:
        BadInput: no room for the labels.
    """

    def __init__(self, out: Path, shape: tuple[int, int], digest: str) -> None:
        self.folder = out.with_name(f".segclip-deploy.{out.name}.partial")
        self.labels = self.folder / "labels.raw"
        self._record = self.folder / "partial.json"
        self._shape, self._digest = shape, digest
        self.rows = self._finished()
        if not self.rows:
            self.remove()
        self._check_room(out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.labels, os.O_RDWR | os.O_CREAT, 0o666)

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def append(self, labels: NDArray[np.uint8]) -> None:
        """Write the next rows (h, W).

        Raises:
            OSError: they could not be written.
        """
        data = np.ascontiguousarray(labels).data.cast("B")
        place = self.rows * self._shape[1]
        try:
            while data:
                written = os.pwrite(self._file, data, place)
                data, place = data[written:], place + written
            os.fsync(self._file)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.labels)) from error
        self.rows += len(labels)
        write_json(self._record, {"digest": self._digest, "rows": self.rows})

    def read(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """Finished rows (bottom − top, W)."""
        width = self._shape[1]
        data = os.pread(self._file, (bottom - top) * width, top * width)
        return np.frombuffer(data, np.uint8).reshape(bottom - top, width)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _finished(self) -> int:
        try:
            record = read_json(self._record)
            rows = int(record["rows"])
            whole = self.labels.stat().st_size >= rows * self._shape[1]
            return rows if whole and record["digest"] == self._digest else 0
        except (BadArtifact, OSError, LookupError, TypeError, ValueError):
            return 0

    def _check_room(self, out: Path) -> None:
        """The rows to come, and a quarter of all for the compressed file, which takes less as a rule."""
        height, width = self._shape
        need = (height - self.rows) * width + height * width // 4
        free = shutil.disk_usage(out.parent).free
        if need > free:
            raise BadInput(
                f"{width}×{height} labels need {need / 1e9:.2g} GB while they are written, "
                f"{free / 1e9:.2g} GB are free",
                where=out.parent,
                fix="make room, or choose another -o",
            )
