"""A service that is killed at random, for minutes, and started anew as systemd would."""

from __future__ import annotations

import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults import leftovers
from tests.support.servers import Server, serve
from tests.support.services import (
    Manager,
    check_pictures,
    golden,
    service,
    stored_lines,
    until,
)

pytestmark = pytest.mark.faults

SECONDS = 300
KEEP = 1_000_000  # bytes: about 200 frames, so that pictures and lines go all the time
LEFT = (0, 1, 2, 3)  # exit codes after which systemd starts nothing: none of them may come


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 200)
def test_five_minutes_of_random_kills_leave_everything_whole(tmp_path: Path) -> None:
    engine, out, chance = golden(tmp_path / "golden.npz"), tmp_path / "out", random.Random(7)
    manager, seen, codes = Manager(tmp_path / "notify"), Seen(out), []
    end = time.monotonic() + SECONDS
    with serve(tmp_path) as camera:
        camera.frame_s, camera.connections = 0.02, [10**6] * 10**4
        words = (engine, camera.url("live"), "-o", out, "--keep", f"{KEEP / 1e6}MB")
        while time.monotonic() < end:
            present = chance.random() < 0.8
            (camera.dead.clear if present else camera.dead.set)()
            ready = len(manager.times("READY"))
            with service(*words, manager=manager, FAKE_PATIENCE_S="1") as process:
                if present and chance.random() < 0.8:  # else it is ended while it starts, too
                    until(partial(is_ready, manager, ready, process))
                code = end_of(process, camera, chance, present)
                errors = process.stderr.read()
            assert code not in LEFT, errors
            assert "Traceback" not in errors
            codes.append(code)
            if not present:
                assert code == 4
                assert len(manager.times("READY")) == ready
            began = len(manager.times("READY")) > ready
            seen.check(clean=began and code == 130)
            assert sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) <= KEEP + 50_000
    assert {-signal.SIGKILL, 130, 4} <= set(codes)
    assert seen.last > SECONDS
    print(f"{len(codes)} starts, {seen.last + 1} frames, exit codes {sorted(set(codes))}")


def is_ready(manager: Manager, before: int, process: Any) -> bool:
    """Whether READY came again, or never will."""
    return len(manager.times("READY")) > before or process.poll() is not None


def end_of(process: Any, camera: Server, chance: random.Random, present: bool) -> int:
    """Let a service be, for a while, and end it in a way that chance takes: its exit code."""
    if present:
        time.sleep(chance.uniform(0.1, 4.0))
        ways = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, None)
        if number := chance.choice(ways):
            process.send_signal(number)
        else:
            camera.dead.set()
    process.wait(60)
    return int(process.returncode)


class Seen:
    """What was there after the starts so far.

    Attributes:
        last: the highest number of a frame.
    """

    def __init__(self, out: Path) -> None:
        self.last = -1
        self._out, self._pictures = out, dict[str, bytes]()

    def check(self, *, clean: bool) -> None:
        """Nothing is half there, no number came twice, and no picture has changed.

        Args:
            clean: it has cleaned up at its start, and ended in peace.
        """
        if not self._out.exists():
            return
        numbers = [line["index"] for line in stored_lines(self._out)]
        assert numbers == sorted(set(numbers))
        assert not numbers or numbers[-1] >= self.last
        self.last = max(numbers, default=self.last)
        pictures = check_pictures(self._out)
        for name in pictures.keys() & self._pictures.keys():
            assert pictures[name] == self._pictures[name]
        self._pictures = pictures
        if clean:
            assert not leftovers(self._out)
