"""What tests of services share: a manager that listens as systemd does, and the command it starts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segclip_deploy.artifacts.golden import Golden, save_golden
from tests.conftest import ROOT
from tests.support.fakes import classes_of, logits_of, random_frame


class Manager:
    """Listens at NOTIFY_SOCKET.

    Attributes:
        address: of the socket.
        messages: (seconds of the monotonic clock, variables) of each message, as they came.
    """

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self.messages: list[tuple[float, dict[str, str]]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            message = self._socket.recv(4096).decode()
            variables = dict(line.split("=", 1) for line in message.splitlines())
            self.messages.append((time.monotonic(), variables))

    def times(self, name: str) -> list[float]:
        """When a variable came."""
        return [when for when, variables in self.messages if name in variables]


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds, and fail after so long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def golden(path: Path) -> Path:
    """Tiles that verify the engine of ``fake_cli``; its name is that of the engine."""
    tiles = np.stack([random_frame(64, 64, seed).pixels for seed in (1, 2)])
    save_golden(path, Golden(tiles, classes_of(tiles), np.stack([logits_of(t) for t in tiles])))
    return path


@contextmanager
def service(
    *arguments: object, manager: Manager | None = None, watchdog_s: float = 2.0, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """``run … --service`` with the fake engine in a process of its own, killed at the end."""
    environment = {**os.environ, **variables}
    if manager:
        environment |= {
            "NOTIFY_SOCKET": manager.address,
            "WATCHDOG_USEC": str(round(1e6 * watchdog_s)),
        }
    words = [sys.executable, "-m", "tests.support.fake_cli", "run", *map(str, arguments)]
    with subprocess.Popen(
        [*words, "--service"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def stored_lines(out: Path) -> list[dict[str, Any]]:
    """All lines that are there, the older ones first; each must be whole."""
    files = [out / name for name in ("areas.1.jsonl", "areas.jsonl") if (out / name).exists()]
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def check_pictures(out: Path) -> dict[str, bytes]:
    """All pictures by name; each must be whole."""
    found = {}
    for path in out.glob("live_*.png"):
        found[path.name] = path.read_bytes()
        with Image.open(path) as image:
            image.load()
    return found
