"""Cold start: from the start of a process to its first label map."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from segclip_deploy.errors import BadArtifact

__all__ = ["cold_starts"]

# The clock is the system's, the same in both processes (CLOCK_MONOTONIC).
_CHILD = """
import sys, time
from segclip_deploy import open_segmenter, read_frame
engine, image, threads = sys.argv[1:]
with open_segmenter(engine, threads=int(threads)) as segmenter:
    segmenter.segment(read_frame(image))
    print(time.monotonic())
"""


def cold_starts(
    engine: Path, image: Path, *, threads: int = 0, times: int = 5, cached: bool = True
) -> list[float]:
    """Milliseconds from the start of a new process to its first label map, several times.

    The interpreter, imports, hashing, loading and compiling the engine, and reading the image
    are in it. The files are in the system's cache from the second time on: the first is the
    slowest where they were not.

    Args:
        cached: let it find what is in the compile cache (OpenVINO); otherwise each has an empty one.

    Raises:
        BadArtifact: the process failed.
    """
    found = []
    for _ in range(times):
        with nullcontext() if cached else TemporaryDirectory() as empty:
            environment = {**os.environ, **({"XDG_CACHE_HOME": empty} if empty else {})}
            started = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-c", _CHILD, str(engine), str(image), str(threads)],
                capture_output=True,
                text=True,
                check=False,
                env=environment,
            )
        if done.returncode:
            told = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise BadArtifact(f"a new process could not run it ({told})", where=engine)
        found.append(round(1e3 * (float(done.stdout) - started), 1))
    return found
