"""Every error the product raises on purpose, and the exit code it ends a command with.

    SegclipError            1  anything below; catch this one to catch them all
    ├── MissingDependency   1  an extra is not installed
    ├── BadInput            1  an image, mask, dataset, vocabulary or text bank that cannot be used
    ├── BadArtifact         1  a checkpoint, bundle or engine that cannot be read
    │   └── StaleArtifact   1  readable, but no longer what its record says it is
    └── GateFailed          3  a result that misses its accuracy, latency or parity gate

A message is one line: what is wrong, where, and what mends it.
"""

from __future__ import annotations

__all__ = [
    "BadArtifact",
    "BadInput",
    "GateFailed",
    "MissingDependency",
    "SegclipError",
    "StaleArtifact",
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
        remedy = f"; {self.fix}" if self.fix else ""
        return place + " ".join(f"{self.what}{remedy}".split())


class MissingDependency(SegclipError):
    """An optional package is needed and not installed."""


class BadInput(SegclipError):
    """Data given by the user cannot be used as it is."""


class BadArtifact(SegclipError):
    """A file this product wrote, or should have written, cannot be read."""


class StaleArtifact(BadArtifact):
    """An artefact differs from what its record says, or its parent has changed."""


class GateFailed(SegclipError):
    """A measured result misses the limit that was set for it."""

    exit_code = 3
