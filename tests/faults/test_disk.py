"""Disks that are full or may not be written, and two processes at one place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.engine import load_engine
from segclip_deploy.artifacts.files import locked
from segclip_deploy.calibration.table import load_table
from segclip_deploy.runtime.targets.compile_cache import CompileCache
from tests.conftest import EXAMPLE
from tests.support.faults import MAIN, ROOT, error_lines, leftovers, segclip, small_disk

pytestmark = pytest.mark.faults

COMMANDS: dict[str, tuple[str, ...]] = {
    "export": ("export", "{checkpoint}", "-o", "{out}/bundle", "--size", "64x96", "--for", "cpu"),
    "calibrate": ("calibrate", "{bundle}", "--tiles", "{tiles}", "--select", "16", "-o", "{out}/t.json"),
    "build-engine": ("build-engine", "{bundle}", "-o", "{out}/e.ort.onnx"),
    "run": ("run", "{bundle}", "{tiles}", "-o", "{out}/labels"),
    "set-texts": ("set-texts", "{bundle}", "--text", "{bank}", "-o", "{out}/bundle"),
}  # fmt: skip


@pytest.fixture(scope="module")
def command(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Path], list[str]]:
    """(name, output folder) → a command's arguments."""
    folder = tmp_path_factory.mktemp("given")
    with Image.open(EXAMPLE / "images" / "tile6_part8.jpg") as image:
        image.crop((0, 0, 512, 512)).save(folder / "tiles.png")
    rng = np.random.default_rng(1)
    bank = {"classes": rng.standard_normal((5, 16)), "texts": rng.standard_normal((5, 3, 16))}
    np.savez(folder / "bank.npz", **bank)
    given = {"checkpoint": tiny_checkpoint, "bundle": tiny_bundle}
    given |= {"tiles": folder / "tiles.png", "bank": folder / "bank.npz"}
    return lambda name, out: [part.format(out=out, **given) for part in COMMANDS[name]]


def finished(folder: Path) -> list[str]:
    """What a failed command has left; a run's list of frames may be there, and empty."""
    return [p.name for p in folder.rglob("*") if p.is_file() and not (p.name == "areas.jsonl" and not p.stat().st_size)]  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_may_not_grow_is_one_line_and_nothing_half_written(
    name: str, command: Callable[[str, Path], list[str]], tmp_path: Path
) -> None:
    """RLIMIT_FSIZE: writing fails in the middle of a file, as on a full disk."""
    done = segclip(*command(name, tmp_path), file_size=2_000)
    assert done.returncode == 1, done.stderr
    assert len(error_lines(done)) == 1
    assert "File too large" in done.stderr
    assert finished(tmp_path) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_line_and_with_room_the_work_is_done(
    name: str, command: Callable[[str, Path], list[str]], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        (disk / "fill").write_bytes(bytes(60_000 if name != "calibrate" else 65_536 - 4096))
        done = segclip(*command(name, disk))
        assert done.returncode == 1, done.stderr
        assert len(error_lines(done)) == 1
        assert "No space left on device" in done.stderr
        assert finished(disk) == ["fill"]
        (disk / "fill").unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert segclip(*command(name, disk)).returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_disk_is_one_line(
    name: str, command: Callable[[str, Path], list[str]], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "ro,size=1m") as disk:
        done = segclip(*command(name, disk))
        assert done.returncode == 1, done.stderr
        assert len(error_lines(done)) == 1
        assert "Read-only file system" in done.stderr


@pytest.mark.parametrize("name", ["build-engine", "run"])
def test_a_folder_that_may_not_be_written_is_one_line(
    name: str, command: Callable[[str, Path], list[str]], tmp_path: Path
) -> None:
    tmp_path.chmod(0o555)
    done = segclip(*command(name, tmp_path), ordinary=True)
    tmp_path.chmod(0o755)
    assert done.returncode == 1, done.stderr
    assert "Permission denied" in error_lines(done)[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["export", "calibrate", "build-engine"])
def test_two_at_one_place_both_end_well_and_it_is_whole(
    name: str, command: Callable[[str, Path], list[str]], tmp_path: Path
) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", MAIN, *command(name, tmp_path)], cwd=ROOT,
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # fmt: skip
    told = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert not leftovers(tmp_path)
    if name == "export":
        load_bundle(tmp_path / "bundle")
    elif name == "calibrate":
        load_table(tmp_path / "t.json")
    else:
        load_engine(tmp_path / "e.ort.onnx")


def test_an_engine_is_put_in_place_by_one_process_at_a_time(
    command: Callable[[str, Path], list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "e.ort.onnx"
    with locked(out):
        waiting = subprocess.Popen([sys.executable, "-c", MAIN, *command("build-engine", tmp_path)], cwd=ROOT)  # fmt: skip
        until = time.monotonic() + 120
        while not [p for p in tmp_path.glob(".segclip-deploy.*.onnx") if p.stat().st_size]:
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.5)  # time enough to put it there, were it not for the lock
        assert waiting.poll() is None
        assert not out.exists()
    assert waiting.wait(120) == 0
    load_engine(out)
    assert not leftovers(tmp_path)


def test_a_lock_is_held_by_one_and_leaves_nothing(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with locked(tmp_path / "x"):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_process_that_was_killed_holds_nobody(tmp_path: Path) -> None:
    path = tmp_path / "x"
    code = (
        "import os, pathlib, signal, sys\n"
        "from segclip_deploy.artifacts.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1  # its lock's file
    started = time.monotonic()
    with locked(path):
        assert time.monotonic() - started < 5
    assert list(tmp_path.iterdir()) == []


def test_two_that_share_a_compile_cache_both_fly(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    engine, cache = tmp_path / "e.ov.onnx", tmp_path / "cache"
    assert segclip("build-engine", tiny_bundle, "-o", engine, cache=cache).returncode == 0
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "other")}
    started = [
        subprocess.Popen([sys.executable, "-c", MAIN, "verify", str(engine)], cwd=ROOT,
                         env=environment, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]  # fmt: skip
    assert [process.wait(120) for process in started] == [0, 0]
    (entry,) = (tmp_path / "other").rglob("*.compiled")
    assert CompileCache(entry).read()


def test_no_clock_but_a_monotonic_one_times_anything() -> None:
    """A step of the clock changes no duration: nothing asks it, but for when a frame or reading came."""
    asking = {
        path.name
        for path in (ROOT / "segclip_deploy").rglob("*.py")
        if any(word in path.read_text() for word in ("time.time(", "time.time_ns(", "datetime.now", "utcnow"))
    }  # fmt: skip
    assert asking == {"live.py", "mavlink.py"}


def test_a_cache_written_before_the_clock_went_back_is_of_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    later = time.time() + 10**8
    for number in range(8):
        entry = CompileCache.of("openvino", {"model": number})
        entry.write(b"old")
        os.utime(entry.path, (later, later))
    new = CompileCache.of("openvino", {"model": "new"})
    new.write(b"new")
    assert new.read() == b"new"
