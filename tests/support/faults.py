"""What the tests of faults share: the real command in a process of its own, under limits, on small disks."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAIN = "from segclip_deploy.cli import main; main()"
_AS_USERS_ARE = ("--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")


def segclip(
    *arguments: object,
    memory: int | None = None,
    file_size: int | None = None,
    cache: Path | None = None,
    ordinary: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run ``segclip-deploy`` to its end.

    Args:
        memory: bytes of address space it may have.
        file_size: bytes that a file it writes may have.
        cache: the user's cache directory.
        ordinary: permissions hold, also for root.
    """
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    if ordinary and os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root may read and write everything, and there is no setpriv")
        command = ["setpriv", *_AS_USERS_ARE, *command]

    def limit() -> None:
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        if file_size:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

    environment = {**os.environ, "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}
    if file_size:  # CPython keeps a module's bytecode that was cut off, and the next import fails
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
    if cache:
        environment["XDG_CACHE_HOME"] = str(cache)
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=ROOT,
        env=environment,
        preexec_fn=limit,
    )


def error_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The errors a command told; a traceback is none, and fails."""
    assert "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("error:")]


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A disk in memory, mounted at a folder; skips where mounting is not permitted."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def leftovers(folder: Path) -> list[str]:
    """Whatever is not finished below a folder."""
    return [path.name for path in folder.rglob(".segclip-deploy.*")]
