"""The lines of a service: they go on after a restart, stay within a bound, and survive a power cut."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from segclip_deploy.runtime.io.sinks.lines import LineFile

__all__ = ["LineLog", "next_number", "older_lines"]

_TAIL = 1 << 20  # bytes at a file's end that a power cut may have damaged


def older_lines(path: Path) -> Path:
    """Where the lines before those of ``path`` are: ``areas.1.jsonl`` of ``areas.jsonl``."""
    return path.with_name(f"{path.stem}.1{path.suffix}")


class LineLog:
    """Lines to a file, in turns with the one before it: the oldest go.

    When the file has half of the limit, it becomes ``older_lines(path)``, in the place of the last
    one. What a power cut has left of a line is cut off when it is opened.

    Args:
        path: of the file, which is made when the log is entered.
        limit: bytes of both files together; a longer line is written alone.
        anew: what is there already goes when the first line comes.
    """

    def __init__(self, path: Path, limit: int, *, anew: bool = False) -> None:
        self.path, self._half, self._anew = path, limit // 2, anew
        self._stream: BinaryIO
        self._lines: LineFile

    def __enter__(self) -> LineLog:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def write(self, line: str) -> None:
        """Write a line.

        Raises:
            OSError: it could not be written, and is not there in part.
        """
        if self._anew:
            self._stream.truncate(0)
            older_lines(self.path).unlink(missing_ok=True)
            self._anew = False
        size = self._stream.tell()
        if size and size + len(line.encode()) + 1 > self._half:
            self.flush()
            with self._stream:  # closed when the next is open: there is always one to flush
                self.path.replace(older_lines(self.path))
                self._open()
        self._lines.write(line)

    def flush(self) -> None:
        """Bring all lines to the disk."""
        os.fsync(self._stream.fileno())

    def _open(self) -> None:
        self._stream = self.path.open("ab", buffering=0)
        self._lines = LineFile(self._stream, str(self.path))
        _cut_torn(self.path)
        self._stream.seek(0, os.SEEK_END)


def next_number(folder: Path, lines: Path) -> int:
    """The number after the last frame of a camera, by its pictures and its lines.

    Either may be what is left: ``keep`` removes pictures, and a power cut the last lines.

    Args:
        folder: of the pictures, ``live_000123.png`` and so on.
        lines: their file.
    """
    pictures = (re.fullmatch(r"live_(\d+)(\.\w+)?\.png", path.name) for path in _in(folder))
    numbers = [int(match[1]) for match in pictures if match]
    for path in (lines, older_lines(lines)):
        if path.exists() and (last := _cut_torn(path)):
            numbers.append(last.get("index", 0))
            break
    return max(numbers, default=-1) + 1


def _in(folder: Path) -> Iterator[Path]:
    return folder.glob("live_*.png") if folder.is_dir() else iter(())


def _cut_torn(path: Path) -> dict[str, Any]:
    """Cut off what is no line at a file's end: the last line that stays; empty where there is none."""
    with path.open("rb+") as stream:
        size = stream.seek(0, os.SEEK_END)
        start = stream.seek(max(0, size - _TAIL))
        tail = whole = stream.read()
        last: dict[str, Any] | None = None
        while last is None and tail:
            tail = tail[: tail.rfind(b"\n") + 1]
            begin = tail.rfind(b"\n", 0, -1) + 1
            last = _parsed(tail[begin:])
            tail = tail[:begin] if last is None else tail
        if len(tail) < len(whole):
            stream.truncate(start + len(tail))
        return last or {}


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
