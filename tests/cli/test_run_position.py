"""``run --telemetry``: lines say where each frame was taken, or why they do not."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from PIL import Image

from tests.support.autopilots import TAKE_OFF, S, write_tlog
from tests.support.fake_cli import open_fake
from tests.support.films import make_film
from tests.support.helpers import call


@pytest.fixture(autouse=True)
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segclip_deploy.runtime.open_engine.open_engine", open_fake)


def film_from(path: Path, second: float) -> Path:
    """A film of 26 frames that begins so many seconds after take-off."""
    begins = datetime.fromtimestamp(TAKE_OFF / S, timezone.utc) + timedelta(seconds=second)
    return make_film(path, 26, created=begins.isoformat())


def test_frames_of_a_film_take_position_and_attitude_from_a_log(tmp_path: Path) -> None:
    film, log = film_from(tmp_path / "clip.mp4", 3), write_tlog(tmp_path / "flight.tlog")
    done = call(
        *("run", "engine", film, "-o", tmp_path / "out", "--telemetry", log),
        *("--jsonl", "-", "--no-overlay"),
    )
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 26
    for n, line in enumerate(lines):
        assert line["gps"]["lat"] == pytest.approx(46 + 1e-4 * (3 + n / 25), abs=2e-7)
        assert line["gps"]["age_s"] == pytest.approx(min(n / 25, 1 - n / 25), abs=0.001)
        assert line["attitude"]["yaw"] == pytest.approx(2 * (3 + n / 25), abs=0.01)
        assert line["attitude"]["of"] == "vehicle"
    assert f"{log}: 10 positions, 10 attitudes" in done.stderr


def test_a_film_of_another_time_zone_gets_null_and_one_line(tmp_path: Path) -> None:
    film, log = film_from(tmp_path / "clip.mp4", 7200), write_tlog(tmp_path / "flight.tlog")
    done = call("run", "engine", film, "-o", tmp_path / "out", "--telemetry", log)
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (tmp_path / "out" / "areas.jsonl").open()]
    assert {str(line["gps"]) for line in lines} == {"None"}
    (said,) = [line for line in done.stderr.splitlines() if "is a clock in another" in line]
    assert "exactly 2 h earlier" in said


def test_pictures_without_a_zone_are_said_to_get_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2026:05:28 20:26:41"
    picture = Image.new("RGB", (70, 50))
    picture.save(tmp_path / "a.jpg", exif=exif)
    picture.save(tmp_path / "b.jpg", exif=exif)
    log = write_tlog(tmp_path / "flight.tlog")
    done = call(
        *("run", "engine", tmp_path / "a.jpg", tmp_path / "b.jpg", "-o", tmp_path / "out"),
        *("--telemetry", log),
    )
    assert done.exit_code == 0, done.output
    assert done.stderr.count("has no time with a zone, so") == 1
