"""Whether a machine's temperature is steady, from readings between measurements."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from segclip_deploy.runtime.profiling.heat import HeatSpan, read_heat

__all__ = ["STEADY_KELVIN", "STEADY_SECONDS", "HeatLog"]

STEADY_SECONDS = 60.0
"""The newest so many seconds decide whether the temperature is steady."""

STEADY_KELVIN = 1.0
"""A hottest sensor that changes by less in these seconds is steady."""

_APART = 1.0  # seconds between two readings, at least


class HeatLog:
    """Readings that are taken when ``note`` is called, and by no thread: none runs beside what is timed.

        log = HeatLog()
        while not log.steady():
            work()
            log.note()
        log.begin()
        measure()
        log.end()
        span = log.span()

    Args:
        root: of the file system.
        clock: seconds, from any start.
    """

    def __init__(
        self, root: Path = Path("/"), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root, self._clock = root, clock
        self._hottest: list[tuple[float, float]] = []  # of the newest seconds, and the one before
        self._seen: set[str] = set()
        self._started = clock()
        self._read()
        self._mark()

    @property
    def elapsed(self) -> float:
        """Seconds since the first reading."""
        return self._clock() - self._started

    def note(self) -> None:
        """Take a reading, unless the last one is younger than a second."""
        if self._clock() - self._at >= _APART:
            self._read()

    def begin(self) -> None:
        """The measurement begins: with a reading, however young the last one is."""
        self._read()
        self._mark()

    def end(self) -> None:
        """The measurement ends: with a reading, likewise."""
        self._read()

    def change(self) -> float | None:
        """Kelvin that the hottest sensor changes by in ``STEADY_SECONDS``, at its newest pace.

        It is the slope of the least squares line through the readings of these seconds, so that one
        noisy reading does not decide. None as long as the readings do not span them.
        """
        if not self._hottest or self._hottest[-1][0] - self._hottest[0][0] < STEADY_SECONDS:
            return None
        at, celsius = zip(*self._hottest, strict=True)
        slope, _ = np.polyfit(np.subtract(at, at[-1]), celsius, 1)
        return float(slope * STEADY_SECONDS)

    def steady(self) -> bool | None:
        """Whether it changes by less than ``STEADY_KELVIN``; None without a sensor."""
        if not self._hottest:
            return None
        change = self.change()
        return change is not None and abs(change) < STEADY_KELVIN

    def span(self) -> HeatSpan:
        """From ``begin`` to the newest reading; steady if it was so at both."""
        first, last = self._before.throttle_events, self._last.throttle_events
        told = [one.throttling for one in (self._before, self._last)]
        steady = self.steady()
        return HeatSpan(
            before=self._before,
            after=self._last,
            steady=None if steady is None else bool(steady and self._steady_before),
            throttle_events={cause: last[cause] - first[cause] for cause in last if cause in first},
            throttled=None if told == [None, None] else tuple(sorted(self._seen)),
        )

    def _mark(self) -> None:
        self._before, self._steady_before = self._last, self.steady()
        self._seen = set(self._last.throttling or ())

    def _read(self) -> None:
        self._at, self._last = self._clock(), read_heat(self._root)
        self._seen.update(self._last.throttling or ())
        if self._last.hottest is not None:
            self._hottest.append((self._at, self._last.hottest))
        since = self._at - STEADY_SECONDS
        while len(self._hottest) > 1 and self._hottest[1][0] <= since:
            del self._hottest[0]
