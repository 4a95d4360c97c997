"""Files that together stay within a limit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from segclip_deploy.artifacts.files import flush_folder, write_file

__all__ = ["Storage"]


class Storage:
    """Writes files, and removes the oldest so that all of them stay within a limit.

    Args:
        limit: bytes; None: no limit.
        present: files of earlier runs, which count and go first.
        flushed: what is written survives a power cut, after ``flush``.

    Attributes:
        removed: how many files had to go.
    """

    def __init__(
        self, limit: int | None = None, present: Iterable[Path] = (), *, flushed: bool = False
    ) -> None:
        self.limit, self.removed, self._flushed = limit, 0, flushed
        self._touched: set[Path] = set()  # folders whose entries are not on the disk yet
        known = [(path, path.stat()) for path in present] if limit is not None else []
        known.sort(key=lambda entry: entry[1].st_mtime_ns)
        self._sizes = {path: stat.st_size for path, stat in known}  # in order of age
        self._total = sum(self._sizes.values())

    def write(self, path: Path, data: bytes) -> None:
        """Write a file, whole or not at all, after making room for it.

        Raises:
            OSError: it could not be written; says which file.
        """
        if self.limit is not None:
            self._total += len(data) - self._sizes.pop(path, 0)
            while self._total > self.limit and self._sizes:
                self.remove(next(iter(self._sizes)))
                self.removed += 1
            self._sizes[path] = len(data)
        write_file(path, data, flushed=self._flushed)
        if self._flushed:
            self._touched.add(path.parent)

    def flush(self) -> None:
        """Bring the names of all files that were written to the disk; their bytes are there."""
        while self._touched:
            flush_folder(self._touched.pop())

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        path.unlink(missing_ok=True)
        if self.limit is not None:
            self._total -= self._sizes.pop(path, 0)
