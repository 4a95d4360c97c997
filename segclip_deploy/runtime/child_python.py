"""A Python of its own for what may crash, or leaves a process other than it found it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["run_child"]

# It finds modules where its parent does, and nothing in the working directory stands in for them.
_SAME_PATHS = "import os, sys\nsys.path[:] = sys.argv.pop(1).split(os.pathsep)\n"


def run_child(
    code: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run code in another process of this Python, and wait; what it prints is kept and not shown.

        done = run_child("import sys; print(sys.argv[1])", "word")
        done.returncode, done.stdout

    Args:
        code: finds the modules that this process finds, and its arguments in ``sys.argv[1:]``.
        arguments: for it.
        environment: variables that it has beside those of this process.
    """
    paths = os.pathsep.join(str(Path(place).resolve()) for place in sys.path)
    return subprocess.run(
        [sys.executable, "-I", "-c", _SAME_PATHS + code, paths, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
