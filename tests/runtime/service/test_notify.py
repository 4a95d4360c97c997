"""Messages to a manager: sd_notify(3), held against systemd's own program where it is there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.service.notify import Notifier, open_notifier


@pytest.mark.parametrize("abstract", [False, True])
def test_a_message_is_what_systemds_own_program_sends(abstract: bool, tmp_path: Path) -> None:
    address = f"@segclip-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0", 1) if abstract else address)
        manager.settimeout(5)
        with Notifier(address) as notifier:
            assert notifier.send("READY=1", "STATUS=3.1 frames/s\n of  ü")
        sent = manager.recv(4096)
        assert sent == "READY=1\nSTATUS=3.1 frames/s of ü".encode()
        if shutil.which("systemd-notify"):
            words = ["systemd-notify", "--no-block", "READY=1", "STATUS=3.1 frames/s of ü"]
            subprocess.run(words, env={**os.environ, "NOTIFY_SOCKET": address}, check=True)
            assert manager.recv(4096) == sent


def test_a_busy_manager_keeps_no_frame_waiting(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        with Notifier(str(tmp_path / "notify")) as notifier:
            started, sent = time.perf_counter(), 0
            while notifier.send("WATCHDOG=1"):
                sent += 1
            assert time.perf_counter() - started < 5
            assert sent  # the queue was full, and not the socket broken
            assert not notifier.send("READY=1", wait_s=0.1)
            manager.recv(100)
            assert notifier.send("READY=1", wait_s=5)


def test_a_manager_that_is_gone_ends_no_flight(tmp_path: Path) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    with Notifier(str(tmp_path / "notify")) as notifier:
        assert notifier.send("WATCHDOG=1")
        manager.close()
        assert not notifier.send("WATCHDOG=1")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "{pid}"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_the_watchdog_is_that_of_the_environment(
    environment: dict[str, str], expected: float | None, tmp_path: Path
) -> None:
    assert open_notifier(environment) is None  # nobody listens
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        known = {name: value.format(pid=os.getpid()) for name, value in environment.items()}
        notifier = open_notifier({**known, "NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert notifier is not None
        with notifier:
            assert notifier.watchdog_s == expected


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"NOTIFY_SOCKET": "vsock:2:1"}, "NOTIFY_SOCKET: 'vsock:2:1' is neither"),
        ({"NOTIFY_SOCKET": "@"}, "NOTIFY_SOCKET: '@' is neither"),
        ({"NOTIFY_SOCKET": "/no/where"}, "nobody listens at '/no/where' (No such file"),
        ({"NOTIFY_SOCKET": "/a" * 200}, "nobody listens at"),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"}, "WATCHDOG_USEC: 'soon' is no number"),
    ],
)
def test_an_environment_that_means_nothing_is_one_line(
    environment: dict[str, str], words: str
) -> None:
    with pytest.raises(BadInput) as caught:
        open_notifier(environment)
    assert words in str(caught.value)
