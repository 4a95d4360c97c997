"""The subtitles (``.SRT``) that DJI's drones write beside a film: where each frame was taken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.io.telemetry.track import Track

__all__ = ["FilmSubtitles", "find_srt", "read_srt"]

_NUMBER = r"([+-]?\d+(?:\.\d+)?)"
_CUE = re.compile(r"(\d+):(\d\d):(\d\d)[,.](\d{3})\s*-->")
_CLOCK = re.compile(r"(\d{4})[-.](\d\d)[-.](\d\d) (\d\d):(\d\d):(\d\d)(?:[.,](\d{3}))?")
# [latitude: 31.229247] [longitude: 121.634603]; some firmware writes "longtitude".
_BRACKETS = re.compile(rf"latitude\s*:\s*{_NUMBER}\]?.*?longt?itude\s*:\s*{_NUMBER}", re.DOTALL)
_ABOVE_SEA = re.compile(rf"abs_alt\s*:\s*{_NUMBER}")
_GIMBAL = re.compile(
    rf"gb_yaw\s*:\s*{_NUMBER}\s+gb_pitch\s*:\s*{_NUMBER}\s+gb_roll\s*:\s*{_NUMBER}"
)
# GPS(149.0251,-20.2533,16): longitude, latitude, satellites. GPS(36.6146,-6.1120,0.0M):
# latitude, longitude, altitude; the M tells.
_CALL = re.compile(rf"GPS ?\({_NUMBER}, ?{_NUMBER}, ?{_NUMBER}(M?)\)")
_PRY = re.compile(
    rf"\b(F|G)\.PRY ?\({_NUMBER}°?, ?{_NUMBER}°?, ?{_NUMBER}°?\)"
)  # pitch, roll, yaw of flight and gimbal
_LONGEST = 64 << 20  # bytes; an hour at 60 frames a second is a quarter of it
_LONGEST_CUE = 4096  # characters
_FROZEN_S = {7: 10.0, 6: 60.0}
"""By decimals of a degree: a drone that hovers moves 11 cm, the sixth, within a minute."""


@dataclass(frozen=True)
class FilmSubtitles:
    """What the subtitles of a film say.

    Attributes:
        path: the file.
        track: over the time in the film, nanoseconds.
        start: when the film began, by the camera's clock, which has no zone; None: not said.
    """

    path: Path
    track: Track
    start: datetime | None


def find_srt(film: Path) -> Path | None:
    """The subtitles beside a film: its name with ``.SRT`` or ``.srt``, if that is there."""
    beside = (film.with_suffix(suffix) for suffix in (".SRT", ".srt"))
    return next((path for path in beside if path.is_file()), None)


def read_srt(path: Path, *, report: Callable[[str], None]) -> FilmSubtitles | None:
    r"""Read the subtitles of a film.

    The dialects: ``[latitude: …] [longitude: …] [rel_alt: … abs_alt: …] [gb_yaw: …]``;
    ``GPS(lon,lat,satellites)`` and ``GPS(lat,lon,altitudeM)`` with ``F.PRY`` and ``G.PRY``. Heights
    above take-off are not read: they are not above the sea.

    Args:
        path: the file.
        report: is told in a line of positions that are wrong.

    Returns:
        what they say; None where no position and no attitude is in it: those of a talk, perhaps.

    Raises:
        BadInput: it cannot be read.

    Examples:
        >>> import tempfile
        >>> text = "1\n00:00:00,000 --> 00:00:00,033\n[latitude: 46.5] [longitude: 7.25]\n"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "film.SRT").write_text(text)
        ...     read = read_srt(Path(folder) / "film.SRT", report=print)
        >>> read.track.at(0)[0].lat
        46.5
    """
    try:
        if path.stat().st_size > _LONGEST:
            raise BadInput(f"more than {_LONGEST >> 20} MB of subtitles", where=path)
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadInput(f"not readable ({error.strerror})", where=path) from error
    cues = list(_cues(text))
    places = [place for _, body in cues if (place := _place(body))]
    decimals = max((len(place[0].partition(".")[2]) for place in places), default=0)
    frozen_s = _FROZEN_S.get(min(decimals, 7))
    track = Track(str(path), report=report, frozen_s=frozen_s)
    start = None
    for time_ns, body in cues:
        place = _place(body)
        if place is not None:
            above_sea = _ABOVE_SEA.search(body)
            alt = float(above_sea[1]) if above_sea else None
            track.add_position(time_ns, float(place[0]), float(place[1]), alt)
        _add_attitudes(track, time_ns, body)
        if start is None and (clock := _clock(body)):
            start = clock - timedelta(microseconds=time_ns // 1000)
    return FilmSubtitles(path, track, start) if len(track) else None


def _cues(text: str) -> Iterator[tuple[int, str]]:
    """(nanoseconds in the film, text) of each subtitle; what is cut off in its midst is left out."""
    found = list(_CUE.finditer(text))
    for cue, following in zip(found, [*found[1:], None], strict=True):
        hours, minutes, seconds, millis = map(int, cue.groups())
        time_ms = ((hours * 60 + minutes) * 60 + seconds) * 1000 + millis
        end = following.start() if following else len(text)
        yield time_ms * 1_000_000, text[cue.end() : min(end, cue.end() + _LONGEST_CUE)]


def _place(body: str) -> tuple[str, str] | None:
    """Latitude and longitude, as they are written."""
    if found := _BRACKETS.search(body):
        return found[1], found[2]
    if found := _CALL.search(body):
        return (found[1], found[2]) if found[4] else (found[2], found[1])
    return None


def _add_attitudes(track: Track, time_ns: int, body: str) -> None:
    if found := _GIMBAL.search(body):
        yaw, pitch, roll = map(float, found.groups())
        track.add_attitude(time_ns, roll, pitch, yaw, of="camera")
    for turned, *angles in _PRY.findall(body):
        pitch, roll, yaw = map(float, angles)
        track.add_attitude(time_ns, roll, pitch, yaw, of="camera" if turned == "G" else "vehicle")


def _clock(body: str) -> datetime | None:
    found = _CLOCK.search(body)
    if found is None:
        return None
    *day_and_time, millis = (int(part or 0) for part in found.groups())
    year, month, day, hour, minute, second = day_and_time
    try:
        return datetime(year, month, day, hour, minute, second, millis * 1000)
    except ValueError:
        return None
