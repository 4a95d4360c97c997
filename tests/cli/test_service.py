"""``run --service`` as systemd sees it: what it is told, and what a restart finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from segclip_deploy import api
from segclip_deploy.errors import BadArtifact, GpuAbsent, GpuRefused
from segclip_deploy.runtime.service.restarts import EndlessCamera, wait_for_devices
from tests.cli.test_run import images
from tests.conftest import ROOT
from tests.support.fake_cli import open_fake
from tests.support.faults import leftovers
from tests.support.helpers import call, commands
from tests.support.rasters import noise, write_raster
from tests.support.servers import Server, serve
from tests.support.services import (
    Manager,
    check_pictures,
    golden,
    service,
    stored_lines,
    until,
)

KEEP = ("--keep", "100MB")


@pytest.fixture
def manager(tmp_path: Path) -> Manager:
    return Manager(tmp_path / "notify")


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segclip_deploy.runtime.open_engine.open_engine", open_fake)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return golden(tmp_path / "golden.npz")


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[Server]:
    """One that gives 50 frames a second for as long as anyone asks."""
    with serve(tmp_path) as server:
        server.frame_s, server.connections = 0.02, [10**6] * 50
        yield server


def test_systemd_hears_of_the_first_frame_and_of_every_second_with_frames(
    engine: Path, manager: Manager, camera: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = (engine, camera.url("live"), "-o", out, *KEEP)
    with service(*words, manager=manager, FAKE_OPENS_S="0.5") as process:
        until(lambda: manager.times("STATUS"))
        camera.silent.set()  # the server has been asked what it is
        assert manager.messages[0][1] == {"STATUS": f"opening and verifying {engine}"}
        until(lambda: len(manager.messages) == 2)
        assert manager.messages[1][1] == {"STATUS": "waiting for the first frame"}
        time.sleep(0.3)
        assert len(manager.messages) == 2  # verified, and no frame yet
        camera.silent.clear()
        until(lambda: len(manager.times("WATCHDOG")) >= 4)
        (ready,) = manager.times("READY")
        assert ready == manager.times("WATCHDOG")[0]
        assert stored_lines(out)[0]["labels"] == "live_000000.png"
        pings = manager.times("WATCHDOG")
        gaps = [after - before for before, after in pairwise(pings)]
        assert median(gaps) < 1.0  # half of the watchdog's two seconds
        assert "frames/s, up to " in manager.messages[-1][1]["STATUS"]
        assert " ms old; " in manager.messages[-1][1]["STATUS"]

        camera.silent.set()  # the camera hangs, and its connection stays
        time.sleep(0.5)
        count = len(manager.times("WATCHDOG"))
        time.sleep(1.5)
        assert len(manager.times("WATCHDOG")) == count
        camera.silent.clear()
        until(lambda: len(manager.times("WATCHDOG")) > count)

        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert manager.messages[-1][1] == {"STOPPING": "1"}
    assert len(manager.times("READY")) == 1
    assert "verification passed" in told
    assert "segmenting frames" not in told  # no bar, and no line in its place


def test_an_engine_that_hangs_sends_no_sign_of_life(
    engine: Path, manager: Manager, camera: Server, tmp_path: Path
) -> None:
    """Its thread sleeps in an inference: the camera goes on, and so would a timer."""
    with service(
        *(engine, camera.url("live"), "-o", tmp_path / "out", *KEEP),
        manager=manager,
        watchdog_s=1.0,
        FAKE_HANGS_AFTER="12",
    ):
        until(lambda: manager.times("WATCHDOG"))
        time.sleep(1.5)
        assert manager.times("WATCHDOG")[-1] < time.monotonic() - 1.0


def test_a_film_is_ready_with_its_first_frame_and_ends_well(
    engine: Path, manager: Manager, fake_engine: None, tmp_path: Path
) -> None:
    source, out = images(tmp_path / "in", 3), tmp_path / "out"
    for _ in range(2):  # the second time its lines begin anew, as its pictures do
        with service(engine, source, "-o", out, *KEEP, manager=manager) as process:
            process.communicate(timeout=60)
        assert process.returncode == 0
        assert [line["index"] for line in stored_lines(out)] == [0, 1, 2]
    names = [name for _, variables in manager.messages for name in variables if name != "STATUS"]
    assert names == 2 * ["READY", "WATCHDOG", "STOPPING"]
    plain = tmp_path / "plain"
    assert call("run", engine, source, "-o", plain).exit_code == 0
    for path in plain.glob("*.png"):
        assert (out / path.name).read_bytes() == path.read_bytes()


@pytest.mark.faults
def test_a_service_that_is_killed_goes_on_where_it_was(
    engine: Path, camera: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    pictures: dict[str, bytes] = {}
    last = -1
    for turn in range(3):
        if turn == 1:  # what a power cut leaves
            with (out / "areas.jsonl").open("ab") as stream:
                stream.write(b'{"image": "http://127.')
            (out / ".segclip-deploy.torn.png").write_bytes(b"\x89PNG")
        with service(engine, camera.url("live"), "-o", out, *KEEP) as process:
            until(partial(has_lines, out, 8 * turn + 8))
            process.send_signal(signal.SIGKILL if turn < 2 else signal.SIGTERM)
            process.communicate(timeout=20)
        assert process.returncode == (-9 if turn < 2 else 130)
        found = stored_lines(out)
        numbers = [line["index"] for line in found]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] > last
        last = numbers[-1]
        now = check_pictures(out)
        assert {name: now[name] for name in pictures} == pictures  # none is overwritten
        assert {line["labels"] for line in found} <= set(now)
        pictures = now
    assert not leftovers(out)


def has_lines(out: Path, count: int) -> bool:
    """Whether so many are there, the last of which may be in the making."""
    path = out / "areas.jsonl"
    return path.exists() and len(path.read_text().splitlines()) > count


@pytest.mark.parametrize(
    ("source", "without", "told"),
    [
        ("tcp://127.0.0.1:9", "no picture (", "no picture ("),
        ("/dev/video97", "no such file or folder", "no such device"),
    ],
)
@pytest.mark.usefixtures("fake_engine")
@pytest.mark.faults
def test_a_camera_that_is_not_there_yet_is_worth_a_restart(
    source: str,
    without: str,
    told: str,
    engine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for waiting in (EndlessCamera.__init__, wait_for_devices):
        monkeypatch.setattr(waiting, "__kwdefaults__", {"patience_s": 0.6})
    words = ("run", engine, source, "-o", tmp_path / "out")
    for more, code, line in (((), 1, without), ((*KEEP, "--service"), 4, told)):
        result = call(*words, *more)
        assert result.exit_code == code
        assert f"error: {source}: {line}" in result.stderr
        again = [line for line in result.stderr.splitlines() if line.endswith("again in 0.5 s")]
        assert len(again) == (code == 4)
        assert "trying again in 1 s" not in result.stderr  # more than it has patience for


@pytest.mark.faults
def test_a_camera_that_comes_later_than_the_service_is_waited_for(
    engine: Path, camera: Server, manager: Manager, tmp_path: Path
) -> None:
    camera.dead.set()
    words = (engine, camera.url("live"), "-o", tmp_path / "out", *KEEP)
    with service(*words, manager=manager) as process:
        assert process.stderr is not None
        until(lambda: "trying again" in process.stderr.readline())
        assert not manager.times("READY")
        camera.dead.clear()
        until(lambda: manager.times("READY"))
    assert stored_lines(tmp_path / "out")[0]["index"] == 0


def raised_anew() -> BadArtifact:
    """As opening an engine does, to name its path."""
    error = BadArtifact("no memory")
    error.__cause__ = GpuRefused("no memory")
    return error


@pytest.mark.parametrize(
    "failure", [GpuAbsent("no GPU"), GpuRefused("no memory"), raised_anew()], ids=range(3)
)
@pytest.mark.parametrize("when", ["opened", "flown"])
@pytest.mark.faults
def test_a_gpu_that_refuses_is_worth_a_restart(
    failure: Exception,
    when: str,
    engine: Path,
    fake_engine: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, out = images(tmp_path / "in", 1), tmp_path / "out"

    def fail(*_: object, **__: object) -> None:
        raise failure

    where = (
        "open_engine.open_engine" if when == "opened" else "inference.segmenter.Segmenter.segment"
    )
    monkeypatch.setattr(f"segclip_deploy.runtime.{where}", fail)
    assert call("run", engine, source, "-o", out).exit_code == 1
    assert call("run", engine, source, "-o", out, *KEEP, "--service").exit_code == 4


@pytest.mark.gstreamer
@pytest.mark.faults
def test_a_pipeline_whose_camera_is_absent_is_worth_a_restart(
    engine: Path, fake_engine: None, tmp_path: Path
) -> None:
    """systemd starts it anew for ever, and one start will find the camera."""
    words = ("run", engine, "gst:v4l2src device=/dev/video97", "-o", tmp_path / "out")
    assert call(*words).exit_code == 1
    result = call(*words, *KEEP, "--service")
    assert result.exit_code == 4
    assert "/dev/video97" in result.stderr


def test_a_bug_in_a_service_is_worth_a_restart(
    engine: Path, fake_engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("segclip_deploy.runtime.inference.segmenter.Segmenter.segment", fail)
    words = ("run", engine, images(tmp_path / "in", 1), "-o", tmp_path / "out", *KEEP)
    result = call(*words, "--service")
    assert result.exit_code == 70
    assert result.stderr.splitlines()[-1] == "ValueError: a bug"
    assert call(*words).exit_code == 1


@pytest.mark.parametrize("journal", [True, False])
def test_lines_for_the_journal_have_their_priority(
    journal: bool, engine: Path, tmp_path: Path
) -> None:
    source = images(tmp_path / "in", 2, 200, 300)
    (source / "bad.png").write_bytes(b"x")
    with (tmp_path / "journal").open("w+b") as stream:
        found = os.fstat(stream.fileno())
        place = f"{found.st_dev}:{found.st_ino if journal else 1}"
        command = [sys.executable, "-m", "tests.support.fake_cli", "run", str(engine), str(source)]
        done = subprocess.run(
            [*command, "-o", str(tmp_path / "out"), *KEEP, "--service"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            env={**os.environ, "JOURNAL_STREAM": place},
            check=False,
        )
        assert done.returncode == 1
        stream.seek(0)
        lines = stream.read().decode().splitlines()
    begins = [line[:9] for line in lines]
    expected = ["<6>", "<6>ready", "<5>hint: ", "<3>error: "]
    for prefix in expected:
        start = prefix if journal else prefix[3:]
        assert any(line.startswith(start) for line in lines), (start, begins)
    assert all(line.startswith("<") == journal for line in lines)


def test_what_would_fill_the_disk_is_refused(
    engine: Path, fake_engine: None, tmp_path: Path
) -> None:
    source = images(tmp_path / "in", 1)
    words = ("run", engine, source, "-o", tmp_path / "out", "--service")
    for more, told in (
        ((), "error: --service: its results would fill the disk; add --keep 10GB"),
        ((*KEEP, "--video", tmp_path / "o.mp4"), "error: --video: a service writes none"),
        ((*KEEP, "--mcap", tmp_path / "o.mcap"), "error: --mcap: a service writes none"),
        ((*KEEP, "--jsonl", tmp_path / "copy"), "error: --jsonl: a copy of the lines would grow"),
    ):
        result = call(*words, *more)
        assert result.exit_code == 2
        assert told in result.stderr
    raster = write_raster(tmp_path / "raster.tif", noise(80, 120))
    result = call("run", engine, raster, "-o", tmp_path / "out", *KEEP, "--service")
    assert (result.exit_code, result.stderr) == (2, f"error: {raster}: --service is for frames\n")
    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=(tmp_path / "pipe").read_bytes)
    reader.start()
    done = call(*words, *KEEP, "--jsonl", tmp_path / "pipe")
    reader.join(20)
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.faults
def test_a_signal_before_the_first_frame_ends_the_run_at_once(
    number: int, engine: Path, tmp_path: Path
) -> None:
    source = images(tmp_path / "in", 1)
    command = [sys.executable, "-m", "tests.support.fake_cli", "run", str(engine), str(source)]
    with subprocess.Popen(
        [*command, "-o", str(tmp_path / "out"), "--preflight"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "FAKE_OPENS_S": "30"},
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "opening\n"
        started = time.monotonic()
        process.send_signal(number)
        told = process.stderr.read()
        assert process.wait(20) == 130
    assert time.monotonic() - started < 5
    assert told == "error: interrupted; nothing half-written was left behind\n"
    assert not (tmp_path / "out").exists()


def test_the_service_verb_and_run_name_the_same_options(engine: Path) -> None:
    """What run learns a unit may have, too, unless it is for flights."""

    run, unit = ({p.name for p in commands()[verb].params} for verb in ("run", "service"))
    assert run - unit == {*api.FLIGHT_ONLY} - {"stop", "report"}
    assert unit - run == {"shown"}
    assert callable(api.service)
