"""Frames of cameras and network streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from segclip_deploy.errors import BadInput, DeviceLost
from segclip_deploy.runtime.formats.address import Address, is_address
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.io.sources.base import Shot, Unreadable
from segclip_deploy.runtime.io.sources.video import VideoFrame, read_live
from segclip_deploy.runtime.io.telemetry.capture import Capture

__all__ = ["LiveSource", "is_live", "next_wait"]

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 8.0  # between attempts to reach a camera


class LiveSource:
    """A camera or a network stream; one that vanishes is waited for, for a while.

    Args:
        url: see ``read_live``.
        report: is told when it vanishes and returns.
        patience_s: how long it may be away.
        read: url → its frames until it ends; by default through PyAV.

    Attributes:
        dropped: frames that came while ``read`` was busy.
    """

    live = True
    total: int | None = None

    def __init__(
        self,
        url: str,
        *,
        report: Callable[[str], None],
        patience_s: float = 60.0,
        read: Callable[[str], Iterator[VideoFrame]] = read_live,
    ) -> None:
        self.address, self.report, self.patience_s = Address(url), report, patience_s
        self.reconnects = self.dropped = 0
        self._read = read

    def shots(self, stop: threading.Event) -> Iterator[Shot | Unreadable]:
        """Read frames as they come.

        Raises:
            BadInput: nothing was there at the start.
            DeviceLost: it was away for longer than the patience.
        """
        index, first, seen = 0, time.perf_counter(), 0.0
        wait, lost = next_wait(), False
        while not stop.is_set():
            reason = "it has ended"
            started = time.perf_counter()
            try:
                for found in self._read(self.address.url):
                    seen = now = time.perf_counter()
                    if lost:
                        self.reconnects += 1
                        self.report(f"{self.address}: there again")
                    wait, lost = next_wait(), False
                    self.dropped += found.dropped
                    index += found.dropped
                    yield self._shot(found, index, now - first, 1e3 * (now - started), now)
                    index += 1
                    started = time.perf_counter()
                    if stop.is_set():
                        return
            except BadInput as error:
                if not index:
                    raise
                reason = error.what
            if not index:
                raise BadInput("no picture (it ended before the first frame)", where=self.address)
            if time.perf_counter() - seen + wait > self.patience_s:
                raise DeviceLost(
                    f"vanished ({reason}), and did not return for {self.patience_s:g} s",
                    where=self.address,
                )
            self.report(f"{self.address}: vanished ({reason}); trying again in {wait:g} s")
            lost = True
            stop.wait(wait)
            wait = next_wait(wait)

    def _shot(
        self, found: VideoFrame, index: int, seconds: float, read_ms: float, clock: float
    ) -> Shot:
        taken = clock if found.taken is None else found.taken
        moment = datetime.now(timezone.utc) - timedelta(seconds=time.perf_counter() - taken)
        capture = Capture(time=moment.isoformat(timespec="milliseconds"))
        frame = Frame(found.pixels, str(self.address))
        return Shot(
            frame, f"live_{index:06d}", index, capture, seconds, read_ms, taken, found.damaged
        )


def next_wait(last: float | None = None) -> float:
    """Seconds until the next attempt to reach a camera, after ``last`` before it: half one, doubled up to 8."""
    return _FIRST_WAIT_S if last is None else min(2 * last, _LONGEST_WAIT_S)


def is_live(source: str) -> bool:
    """Whether a source is a camera's device or a URL."""
    return is_address(source) or Path(source).is_char_device()
