"""DJI's subtitles: its dialects, and films beside which they lie."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from dji_metadata_embedder.utilities import parse_telemetry_samples

from segclip_deploy.runtime.io.sources.base import Shot
from segclip_deploy.runtime.io.sources.file_source import FileSource
from segclip_deploy.runtime.io.sources.naming import SourceFile
from segclip_deploy.runtime.io.telemetry.capture import Attitude, Position
from segclip_deploy.runtime.io.telemetry.srt import read_srt
from tests.support.films import make_film

MAVIC_3 = (
    '<font size="28">FrameCnt: {n}, DiffTime: 40ms\n{clock}\n[iso: 100] [shutter: 1/640.0] '
    "[fnum: 2.8] [ev: 0] [color_md: default] [focal_len: 24.00] [latitude: {lat:.6f}] "
    "[longitude: {lon:.6f}] [rel_alt: 79.969 abs_alt: 596.474] "
    "[gb_yaw: -67.6 gb_pitch: -30.0 gb_roll: 0.0] </font>"
)
MAVIC_2 = (
    "[iso : 100] [shutter : 1/2000.0] [latitude : {lat:.6f}] [longtitude : {lon:.6f}] "
    "[altitude: 80.0]"
)
PHANTOM_4 = "HOME(7.0001,46.0001) 2026.05.27 13:14:22\nGPS({lon:.4f},{lat:.4f},16) BAROMETER:1.9"
MINI = "F/2.8, SS 206.14, ISO 150, EV 0, GPS ({lon:.4f}, {lat:.4f}, 10), D 2.80m, H 80.00m"
P4_RTK = (
    "F/5.6, SS 400, ISO 100, EV 0, GPS ({lon:.6f}, {lat:.6f}, 15), HOME (7.0, 46.0, -57.98m), "
    "D 698.70m, H 85.80m, F.PRY (2.7°, -7.0°, 110.1°), G.PRY (-24.4°, 0.0°, 110.4°)"
)
M300 = "GPS({lat:.4f},{lon:.4f},0.0M) BAROMETER:0.3M"


def write(path: Path, dialect: str, seconds: float = 2, step_ms: int = 40) -> Path:
    """Subtitles of a flight from 46° 7° north and west, one for each frame."""
    cues = []
    for n in range(int(1000 * seconds / step_ms)):
        start = datetime(2026, 5, 27, 13, 14, 22, 500_000) + timedelta(milliseconds=n * step_ms)
        seconds_in, millis = divmod(n * step_ms, 1000)
        body = dialect.format(
            n=n + 1, clock=start.isoformat(" ", "milliseconds"), lat=46 + 2e-4 * n, lon=7 - 2e-4 * n
        )
        cues.append(f"{n + 1}\n00:00:{seconds_in:02d},{millis:03d} --> 00:00:59,000\n{body}\n")
    path.write_text("\n".join(cues), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("dialect", "alt", "attitude"),
    [
        (MAVIC_3, 596.474, Attitude(0.0, -30.0, -67.6, 0.0, "camera")),
        (MAVIC_2, None, None),
        (PHANTOM_4, None, None),
        (MINI, None, None),
        (P4_RTK, None, Attitude(0.0, -24.4, 110.4, 0.0, "camera")),
        (M300, None, None),
    ],
    ids=["mavic 3", "mavic 2", "phantom 4", "mini", "p4 rtk", "m300"],
)
def test_every_dialect_is_read(
    dialect: str, alt: float | None, attitude: Attitude | None, tmp_path: Path
) -> None:
    told: list[str] = []
    read = read_srt(write(tmp_path / "a.SRT", dialect), report=told.append)
    assert read is not None
    position, turned = read.track.at(5 * 40_000_000)
    assert position == Position(46.001, 6.999, alt, 0.0)
    assert turned == attitude
    assert told == []


def test_brackets_are_read_as_another_library_does(tmp_path: Path) -> None:
    """The other dialects it does not read so: it takes longitude for latitude in GPS(…)."""
    path = write(tmp_path / "a.SRT", MAVIC_3)
    read = read_srt(path, report=print)
    assert read is not None
    theirs = parse_telemetry_samples(path)
    assert len(theirs) == 50
    for n, sample in enumerate(theirs):
        position, attitude = read.track.at(n * 40_000_000)
        assert position is not None
        assert attitude is not None
        assert (position.lat, position.lon, position.alt) == (sample.lat, sample.lon, sample.alt)
        assert (attitude.yaw, attitude.pitch) == (sample.gimbal_yaw, sample.gimbal_pitch)
    assert read.start == theirs[0].dt == datetime(2026, 5, 27, 13, 14, 22, 500_000)


def shots(path: Path, told: list[str]) -> list[Shot]:
    source = FileSource([SourceFile(path, path.stem)], report=told.append)
    return [shot for shot in source.shots(threading.Event()) if isinstance(shot, Shot)]


def test_frames_of_a_film_take_place_and_time_from_the_subtitles_beside_it(tmp_path: Path) -> None:
    film, told = make_film(tmp_path / "clip.mp4", 12), []
    write(tmp_path / "clip.SRT", MAVIC_3, step_ms=80)
    found = shots(film, told)
    assert [shot.capture.time for shot in found][:2] == [
        "2026-05-27T13:14:22.500",
        "2026-05-27T13:14:22.540",
    ]
    for n, shot in enumerate(found):  # every second frame lies between two subtitles
        assert shot.capture.position is not None
        assert shot.capture.position.lat == pytest.approx(46 + 1e-4 * n, abs=1e-8)
        assert shot.capture.position.age_s == (0.04 if n % 2 else 0.0)
        assert shot.capture.attitude == Attitude(
            0.0, -30.0, -67.6, shot.capture.position.age_s, "camera"
        )
    assert told == [
        f"{film}: position and attitude by {tmp_path / 'clip.SRT'}",
        f"{film}: times are those of its subtitles, without a zone",
    ]


def test_subtitles_of_a_talk_are_no_telemetry(tmp_path: Path) -> None:
    film, told = make_film(tmp_path / "clip.mp4", 2), []
    write(tmp_path / "clip.srt", "Hello world")
    assert [shot.capture.position for shot in shots(film, told)] == [None, None]
    assert told == []


def test_a_creation_time_is_said_to_be_assumed(tmp_path: Path) -> None:
    film, told = make_film(tmp_path / "clip.mp4", 3, created="2026-05-27T11:14:22Z"), []
    assert [shot.capture.time for shot in shots(film, told)] == [
        "2026-05-27T11:14:22.000+00:00",
        "2026-05-27T11:14:22.040+00:00",
        "2026-05-27T11:14:22.080+00:00",
    ]
    (line,) = told
    assert line.startswith(f"{film}: times count from its creation time, 2026-05-27T11:14:22Z")
    old = make_film(tmp_path / "old.mp4", 3, created="1970-01-01T00:00:01Z")
    assert [shot.capture.time for shot in shots(old, told)] == [None] * 3


@pytest.mark.parametrize(("decimals", "said"), [(7, True), (6, False), (4, False)])
def test_a_drone_that_hovers_is_not_frozen(decimals: int, said: bool, tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "a.SRT"
    dialect = f"[latitude: {46:.{decimals}f}] [longitude: {7:.{decimals}f}] [rel_alt: 1 abs_alt: 2]"
    read = read_srt(write(path, dialect, seconds=30, step_ms=500), report=told.append)
    assert read is not None
    assert bool(told) is said
    assert (read.track.at(20 * 10**9)[0] is None) is said


def test_subtitles_cut_off_in_their_midst_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    path = write(tmp_path / "a.SRT", MAVIC_3)
    path.write_bytes(path.read_bytes()[: -len(MAVIC_3)] + b"\xff\xfe[latitude: 4")
    read = read_srt(path, report=print)
    assert read is not None
    assert read.track.at(48 * 40_000_000)[0] is not None
