"""What a run came to, as it is handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segclip_deploy.errors import SegclipError
from segclip_deploy.runtime.io.sinks.base import RasterResult
from segclip_deploy.runtime.io.sinks.lines import describe_raster_result
from segclip_deploy.runtime.streaming.run import Outcome
from segclip_deploy.runtime.streaming.summary import Summary

__all__ = ["RunResult", "RunStopped"]


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        engine: the library that ran, its version and device.
        out: the folder of the results.
        summary: counts and times of frames.
        dropped: frames of a camera that nobody had time for.
        reconnects: how often a camera vanished and came back.
        removed: files that ``keep`` removed.
        interrupted: it was stopped before its end.
        rasters: that were labelled.
        failed: frames and rasters that could not be used.
    """

    engine: str
    out: Path
    summary: Summary
    dropped: int
    reconnects: int
    removed: int
    interrupted: bool
    rasters: tuple[RasterResult, ...]
    failed: tuple[Outcome, ...]

    @property
    def complete(self) -> bool:
        """Whether everything was labelled, and nothing of it was damaged."""
        left_out = self.interrupted or self.failed or self.summary.damaged
        return not (left_out or self.summary.refused)

    def to_json(self) -> dict[str, Any]:
        """As JSON; the fields of ``summary`` stand beside the others."""
        return {
            "engine": self.engine,
            "out": str(self.out),
            **self.summary.to_json(),
            "dropped": self.dropped,
            "reconnects": self.reconnects,
            "removed": self.removed,
            "interrupted": self.interrupted,
            "rasters": [describe_raster_result(result) for result in self.rasters],
            "failed": failures_json([(o.source, o.error) for o in self.failed]),
        }


class RunStopped(SegclipError):
    """What ended a run before its end: a camera that vanished, a full disk.

    It has the message and the exit code of the error that it is raised from.

    Attributes:
        result: what was done before.
    """

    def __init__(self, error: SegclipError | OSError, result: RunResult) -> None:
        if isinstance(error, SegclipError):
            super().__init__(error.what, where=error.where, fix=error.fix)
            self.exit_code = error.exit_code
        else:
            super().__init__(error.strerror or str(error), where=error.filename)
        self.result = result


def failures_json(failures: Sequence[tuple[object, object]]) -> list[dict[str, str]]:
    """Images that could not be used, and why, as JSON."""
    return [{"image": str(image), "error": str(error)} for image, error in failures]
