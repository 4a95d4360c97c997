"""Life signs: what a manager hears of the frames that come out of a run."""

from __future__ import annotations

import time
from types import TracebackType

from segclip_deploy.progress import Say
from segclip_deploy.runtime.io.sinks.base import FrameResult, RasterResult, WriteTimes
from segclip_deploy.runtime.service.notify import Notifier

__all__ = ["Heartbeat"]

_EVERY_S = 1.0  # a status, at most
_LAST_WORDS_S = 2.0  # how long READY and STOPPING may wait for a manager that is busy


class Heartbeat:
    """A sink behind all others that tells of each frame they have written.

    ``READY=1`` comes with the first. ``WATCHDOG=1`` comes with frames only, and from the thread that
    writes them: if the camera, the engine or the disk hangs, none is sent. One that health refused
    or the deadline skipped counts, too: it came, and was looked at.

    Args:
        notifier: where messages go; None: nowhere, lines are said all the same.
        say: is told a line when the first frame is done.
    """

    def __init__(self, notifier: Notifier | None, say: Say) -> None:
        self._notifier, self._say = notifier, say
        self._started = self._told = time.perf_counter()
        watchdog = notifier and notifier.watchdog_s
        # Two signs within half of the watchdog's time: that is when systemd wants one.
        self._every = min(_EVERY_S, watchdog / 4) if watchdog else _EVERY_S
        self._ready = False
        self._frames = self._since = 0
        self._oldest = 0.0

    def __enter__(self) -> Heartbeat:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Tell that it ends."""
        if self._notifier:
            if self._frames and not self._ready:
                self._notifier.send("READY=1", wait_s=_LAST_WORDS_S)
            self._notifier.send("STOPPING=1", wait_s=_LAST_WORDS_S)

    def stage(self, what: str) -> None:
        """Tell what is done before the first frame."""
        if self._notifier:
            self._notifier.send(f"STATUS={what}")

    def write(self, result: FrameResult | RasterResult) -> WriteTimes:
        """Count a frame, and tell of it if it is time."""
        if isinstance(result, RasterResult):
            return WriteTimes(0.0)
        now = time.perf_counter()
        self._frames += 1
        self._since += 1
        self._oldest = max(self._oldest, now - result.shot.clock)
        if self._frames == 1:
            self._say(f"ready: first frame {now - self._started:.1f} s after the start")
        if self._frames == 1 or now - self._told >= self._every:
            self._tell(now, result.dropped)
        return WriteTimes(1e3 * (time.perf_counter() - now))

    def _tell(self, now: float, dropped: int | None) -> None:
        rate = f"{self._since / (now - self._told):.1f} frames/s" if self._ready else "first frame"
        told = f"{rate}, up to {1e3 * self._oldest:.0f} ms old; {self._frames} frames"
        told += f", {dropped} dropped" if dropped else ""
        self._told, self._since, self._oldest = now, 0, 0.0
        if self._notifier:
            ready = [] if self._ready else ["READY=1"]
            # A manager that is busy hears it with a later frame.
            self._ready |= self._notifier.send(*ready, "WATCHDOG=1", f"STATUS={told}")
