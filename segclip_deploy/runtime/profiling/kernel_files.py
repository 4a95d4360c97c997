"""Files that the kernel answers: one value each, which may be unreadable at any moment."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["kernel_number", "kernel_text"]

_MOST = 1 << 16  # bytes; /proc/self/status is the longest that is read


def kernel_text(path: Path) -> str:
    """What a file of the kernel says; "" where it cannot be read.

    The sensor of a part without power answers EAGAIN: on a Jetson that is the GPU's thermal zone, while
    the GPU sleeps. Python's buffered files make a TypeError of it, which no caller expects. So the file
    is read with ``os.read``.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            return os.read(handle, _MOST).decode("ascii", "replace").strip()
        finally:
            os.close(handle)
    except OSError:
        return ""


def kernel_number(path: Path) -> float | None:
    """The number a file of the kernel says; None where it cannot be read, or is none."""
    try:
        return float(kernel_text(path))
    except ValueError:
        return None
