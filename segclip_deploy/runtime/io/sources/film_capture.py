"""When and where the frames of a film were taken."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from segclip_deploy.runtime.io.sources.video import creation_time
from segclip_deploy.runtime.io.telemetry.capture import Capture
from segclip_deploy.runtime.io.telemetry.srt import FilmSubtitles, find_srt, read_srt

__all__ = ["FilmCapture"]


class FilmCapture:
    """What is known of each frame of a film, by its container and by DJI's subtitles beside it.

    The time is the container's creation time, taken for that of the first frame, and the time in
    the film; where the container has none, that of the camera's clock in the subtitles, which has
    no zone. What is assumed is said in a line.

    Args:
        film: the file.
        report: is told what was found beside it, and what is assumed.

    Raises:
        BadInput: the subtitles beside it cannot be read.
    """

    def __init__(self, film: Path, *, report: Callable[[str], None]) -> None:
        beside = find_srt(film)
        self._subtitles: FilmSubtitles | None = None
        if beside is not None:
            self._subtitles = read_srt(beside, report=report)
        self._start: datetime | None = creation_time(film)
        if self._subtitles is not None:
            report(f"{film}: position and attitude by {self._subtitles.path}")
        if self._start is not None:
            report(
                f"{film}: times count from its creation time, {self._start:%Y-%m-%dT%H:%M:%SZ}, "
                "which is taken for its first frame's, in UTC"
            )
        elif self._subtitles is not None and self._subtitles.start is not None:
            self._start = self._subtitles.start
            report(f"{film}: times are those of its subtitles, without a zone")

    def at(self, seconds: float | None) -> Capture:
        """What is known of the frame at a time in the film."""
        if seconds is None:
            return Capture()
        time = None
        if self._start is not None:
            time = (self._start + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
        if self._subtitles is None:
            return Capture(time)
        position, attitude = self._subtitles.track.at(round(seconds * 1e9))
        return Capture(time, position, attitude=attitude)
