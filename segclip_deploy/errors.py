"""Every error the product raises on purpose, and the exit code it ends a command with.

    SegclipError            1  anything below; catch this one to catch them all
    ├── UsageError          2  arguments of a call, or options of a command, that do not go together
    ├── MissingDependency   1  an extra is not installed
    │   └── GpuAbsent       1  the driver finds no GPU; 4 of a service
    ├── BadInput            1  an image, mask, dataset, vocabulary or text bank that cannot be used
    ├── BadArtifact         1  a checkpoint, bundle or engine that cannot be read
    │   ├── StaleArtifact   1  readable, but no longer what its record says it is
    │   └── GpuRefused      1  the GPU refuses an engine, for want of memory for one; 4 of a service
    ├── GateFailed          3  a result that misses its accuracy, latency or parity gate
    ├── DeviceLost          4  a camera or GPU that has gone away; a process started later may find it
    └── RunStopped             what ended a run before its end, with the exit code of that

Beside these 0 is success, 130 Ctrl-C or SIGTERM, and 70 a bug in a service, with its traceback. A
message is one line: what is wrong, where, and what mends it.
"""

from __future__ import annotations

import os
import shlex
from pathlib import PurePath

__all__ = [
    "BadArtifact",
    "BadInput",
    "DeviceLost",
    "GateFailed",
    "GpuAbsent",
    "GpuRefused",
    "MissingDependency",
    "SegclipError",
    "StaleArtifact",
    "UsageError",
    "command",
]


class SegclipError(Exception):
    """Base of all deliberate errors.

    Args:
        what: what is wrong, a phrase without a full stop.
        where: the file, option or object it was found in.
        fix: what the user can do about it, best a command.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix
        super().__init__(what)

    def __str__(self) -> str:
        place = f"{self.where}: ".replace("\n", "\\n") if self.where else ""
        # Two spaces in a command may be those of a file's name; command() leaves no line breaks.
        remedy = f"; {self.fix}".replace("\n", " ") if self.fix else ""
        return place + " ".join(self.what.split()) + remedy


class UsageError(SegclipError):
    """Arguments that do not go together, or a value that is none."""

    exit_code = 2


class MissingDependency(SegclipError):
    """An optional package is needed and not installed."""


class GpuAbsent(MissingDependency):
    """The driver is there and finds no GPU, or cannot tell of it."""


class BadInput(SegclipError):
    """Data given by the user cannot be used as it is."""


class BadArtifact(SegclipError):
    """A file this product wrote, or should have written, cannot be read."""


class StaleArtifact(BadArtifact):
    """An artefact differs from what its record says, or its parent has changed."""


class GpuRefused(BadArtifact):
    """The GPU refuses an engine now: another program may have it, or its memory."""


class GateFailed(SegclipError):
    """A measured result misses the limit that was set for it."""

    exit_code = 3


class DeviceLost(SegclipError):
    """A device has gone away, or fails until the process is started anew."""

    exit_code = 4


def command(*words: object) -> str:
    """A command for a shell, on one line, whatever its words are.

    Args:
        words: the program and its arguments; paths that begin with a dash are made ``./-…``.
    """
    return " ".join(map(_quoted, words))


def _quoted(word: object) -> str:
    text = str(word)
    if isinstance(word, PurePath) and text.startswith("-"):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    # Line breaks and bytes that are no text: bash's, and POSIX 2024's, quotes with escapes.
    plain = (
        c if c.isprintable() and c not in "'\\" else "".join(f"\\x{b:02x}" for b in os.fsencode(c))
        for c in text
    )
    return f"$'{''.join(plain)}'"
