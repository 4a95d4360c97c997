"""What makes a run a service: its life signs, its source and its folder."""

from __future__ import annotations

from pathlib import Path

from segclip_deploy.progress import Say
from segclip_deploy.runtime.io.sinks.line_log import LineLog, next_number
from segclip_deploy.runtime.io.sources.base import Source
from segclip_deploy.runtime.io.sources.naming import AREAS_FILE
from segclip_deploy.runtime.service.heartbeat import Heartbeat
from segclip_deploy.runtime.service.notify import Notifier
from segclip_deploy.runtime.service.restarts import EndlessCamera

__all__ = ["EndlessRun"]

_LINES_PART = 10  # of what may be kept, a tenth is lines: those of 9 GB of pictures take less


class EndlessRun:
    """The parts of a run that a service has and a flight has not.

    Args:
        out: the folder of the results.
        keep: bytes that pictures and lines may take.
        notifier: of the manager; None where there is none.
        say: is told lines.

    Attributes:
        heartbeat: a sink, to be the last one.
        keep: bytes that are left for pictures.
    """

    def __init__(self, out: Path, keep: int, notifier: Notifier | None, say: Say) -> None:
        self._out, self._lines, self._say = out, keep // _LINES_PART, say
        self.keep = keep - self._lines
        self.heartbeat = Heartbeat(notifier, say)

    def number(self, source: Source) -> Source:
        """The source; a camera's frames go on from those of earlier starts."""
        if not source.live:
            return source
        first = next_number(self._out, self._out / AREAS_FILE)
        return EndlessCamera(source, first, self._say)

    def log(self, source: Source) -> LineLog:
        """The lines: those of a camera go on, those of files begin anew, as the files do."""
        return LineLog(self._out / AREAS_FILE, self._lines, anew=not source.live)
