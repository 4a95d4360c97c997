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
    with progress.progress_bar("images") as bar:
        task = bar.add_task("evaluating", total=900)
        hidden = bar.add_task("nothing", total=0, visible=False)
        for _ in range(12):
            bar.advance(task, 10)
            time.sleep(0.02)
        bar.update(hidden, completed=0)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 5
    form = r"evaluating: \d+/900 images, 0:00:00 elapsed, [\d.]+/s, 0:00:\d\d left"
    assert all(re.fullmatch(form, line) for line in lines)
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_what_has_no_total_has_no_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_EVERY_S", 0.02)
    with progress.progress_bar("frames") as bar:
        task = bar.add_task("segmenting", total=None)
        bar.advance(task, 3)
        time.sleep(0.05)
    line = capsys.readouterr().err.splitlines()[0]
    assert re.fullmatch(r"segmenting: 3 frames, 0:00:00 elapsed, [\d.e+]+/s", line)


def test_short_work_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.stage_bar() as report:
        report("reading", 1, 2)
        report("a stage that has begun", 0, 0)
    assert capsys.readouterr().err == "a stage that has begun\n"
