"""How the node is doing: what it counts, and what its diagnostics say of that."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Condition", "FlightStatus"]

_REMEMBERED = 300  # frames that percentiles are taken over
_SILENT_S = 5.0

Level = Literal["OK", "WARN", "ERROR"]


@dataclass(frozen=True)
class Condition:
    """What one message of diagnostics says.

    Attributes:
        level: its name in ``diagnostic_msgs/DiagnosticStatus``.
        message: one line.
        values: numbers, as text, by what they are.
    """

    level: Level
    message: str
    values: dict[str, str]


class FlightStatus:
    """Counts what happens to images; from any thread.

    Attributes:
        counts: since the start, by what happened: ``received``, ``labelled``, ``dropped``, ``lost``,
            ``bad``, ``skipped``, ``refused``, ``late``.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._latencies: deque[float] = deque(maxlen=_REMEMBERED)
        self._ages: deque[float] = deque(maxlen=_REMEMBERED)
        self._before: Counter[str] = Counter()
        self._error: str | None = None
        self._started = self._heard = self._asked = time.perf_counter()

    def add(self, what: str, count: int = 1) -> None:
        """Count something."""
        with self._lock:
            self.counts[what] += count
            if what == "received":
                self._heard = time.perf_counter()

    def add_labelled(self, latency_ms: float, age_ms: float | None) -> None:
        """Count labels that were published.

        Args:
            latency_ms: from the callback to the publishing.
            age_ms: by the image's stamp; None where it has none.
        """
        with self._lock:
            self.counts["labelled"] += 1
            self._latencies.append(latency_ms)
            if age_ms is not None:
                self._ages.append(age_ms)

    def add_bad(self, error: str) -> None:
        """Count an image that could not be used, and why."""
        with self._lock:
            self.counts["bad"] += 1
            self._error = error

    def set_total(self, what: str, count: int) -> None:
        """Take over what others count."""
        with self._lock:
            self.counts[what] = count

    def condition(self) -> Condition:
        """What to say now; problems are those since the last call."""
        with self._lock:
            now = time.perf_counter()
            recent = self.counts - self._before
            seconds, silent = now - self._asked, now - self._heard
            self._before, self._asked = self.counts.copy(), now
            values = {name: str(self.counts[name]) for name in _COUNTED}
            values["labels per second"] = f"{recent['labelled'] / max(seconds, 1e-3):.2f}"
            values |= _percentiles("latency", self._latencies) | _percentiles("age", self._ages)
            values["last error"] = self._error or ""
            level, message = self._judge(recent, silent)
        return Condition(level, message, values)

    def _judge(self, recent: Counter[str], silent: float) -> tuple[Level, str]:
        if recent["bad"]:
            return "ERROR", self._error or ""
        if silent > _SILENT_S:
            return "ERROR", f"no image for {silent:.0f} s"
        missed = recent["late"] + recent["skipped"]
        if missed:
            return "WARN", f"{missed} images missed the deadline"
        if recent["lost"]:
            return "WARN", f"{recent['lost']} images were lost on their way here"
        if recent["refused"]:
            return "WARN", f"{recent['refused']} images were too unhealthy to be labelled"
        return "OK", "labelling" if recent["labelled"] else "waiting for images"


_COUNTED = ("received", "labelled", "dropped", "lost", "bad", "skipped", "refused", "late")


def _percentiles(what: str, values: deque[float]) -> dict[str, str]:
    if not values:
        return {}
    found = np.percentile(values, (50, 95, 99))
    return {f"{what} p{p} ms": f"{v:.2f}" for p, v in zip((50, 95, 99), found, strict=True)}
