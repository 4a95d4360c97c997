"""Progress without a terminal, as under nohup, systemd or CI: lines in a log."""

from __future__ import annotations

import re
import time

import pytest

from segclip_deploy.cli import progress


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_EVERY_S", 0.05)
    with progress.stage_bar() as report:
        for done in range(1, 13):
            report("evaluating images", 10 * done, 900)
            time.sleep(0.02)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 5
    form = r"evaluating images: \d+/900, 0:00:00 elapsed, [\d.]+/s, 0:00:\d\d left"
    assert all(re.fullmatch(form, line) for line in lines)
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_what_has_no_total_has_no_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_EVERY_S", 0.02)
    with progress.stage_bar() as report:
        report("segmenting frames", 3, 0)
        time.sleep(0.05)
    line = capsys.readouterr().err.splitlines()[0]
    assert re.fullmatch(r"segmenting frames: 3, 0:00:00 elapsed, [\d.e+]+/s", line)


def test_another_stage_has_a_rate_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_EVERY_S", 0.02)
    with progress.stage_bar() as report:
        report("reading", 100_000, 100_001)
        time.sleep(0.2)
        capsys.readouterr()
        report("labelling", 1, 1000)
        time.sleep(0.05)
    rates = [float(line.split(", ")[2][:-2]) for line in capsys.readouterr().err.splitlines()]
    assert rates
    assert max(rates) < 1000


def test_short_work_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.stage_bar() as report:
        report("reading", 1, 2)
        report("a stage that has begun", 0, 0)
    assert capsys.readouterr().err == "a stage that has begun\n"
