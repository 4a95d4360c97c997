"""A folder of results that does not grow over a limit, and lines that are whole or not there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from segclip_deploy.artifacts.files import replace_file
from segclip_deploy.errors import BadInput

__all__ = ["LineFile", "Storage"]


class Storage:
    """Writes files, and removes the oldest so that all of them stay within a limit.

    Args:
        limit: bytes; None: no limit.
        present: files of earlier runs, which count and go first.

    Attributes:
        removed: how many files had to go.
    """

    def __init__(self, limit: int | None = None, present: Iterable[Path] = ()) -> None:
        self.limit, self.removed = limit, 0
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
        try:
            with replace_file(path) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        path.unlink(missing_ok=True)
        if self.limit is not None:
            self._total -= self._sizes.pop(path, 0)


class LineFile:
    """Lines to a file or pipe, each handed on at once; where one fails, no part of it stays.

    Args:
        stream: binary and unbuffered.
        name: for errors.
        anew: what is there already goes when the first line comes.
    """

    def __init__(self, stream: BinaryIO, name: str, *, anew: bool = False) -> None:
        self._stream, self.name, self._anew = stream, name, anew

    def write(self, line: str) -> None:
        """Write a line.

        Raises:
            BadInput: the process that reads the pipe has ended.
            OSError: it could not be written, and is not there in part.
        """
        data = memoryview(line.encode() + b"\n")
        written = 0
        try:
            if self._anew:
                self._stream.truncate(0)
                self._anew = False
            while written < len(data):
                written += self._stream.write(data[written:]) or 0
            self._stream.flush()
        except BrokenPipeError as error:
            raise BadInput("the process that reads the lines has ended", where=self.name) from error
        except OSError as error:
            with contextlib.suppress(OSError):  # a pipe
                self._stream.truncate(self._stream.tell() - written)
            raise OSError(error.errno, error.strerror, self.name) from error
