"""What a run came to: counts, stage times, frames per second, missed deadlines."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from segclip_deploy.runtime.inference.health import HEALTH_PROBLEMS, HealthProblem
from segclip_deploy.runtime.inference.window_fit import WindowGrid

__all__ = ["Percentiles", "Summary"]

_STEP = 1.01  # ratio of neighbouring bins: a percentile is off by half a percent


class Percentiles:
    """Percentiles of any number of durations, in memory that does not grow with it."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()

    def add(self, ms: float) -> None:
        """Count a duration; all below a microsecond are alike."""
        self._bins[round(math.log(max(ms, 1e-3), _STEP))] += 1

    def at(self, percent: float) -> float | None:
        """The smallest duration that ``percent`` of all do not exceed; None where there is none."""
        needed = math.ceil(percent / 100 * self._bins.total())
        for step in sorted(self._bins):
            needed -= self._bins[step]
            if needed <= 0:
                return float(_STEP**step)
        return None


class Summary:
    """Counts outcomes as they come.

    Attributes:
        done: frames with a label map.
        skipped: frames that the deadline left out.
        unhealthy: frames with a problem, labelled or not.
        problems: by what it is; a frame may have several.
        refused: of the unhealthy ones, frames that were not labelled for it.
        damaged: of those done, frames that were decoded from damaged data.
        bad: frames that could not be read.
        late: label maps that were there after their deadline.
        windows: that were labelled.
        computed, needed: pixels of all windows, and of the frames, where the deadline left no part of
            the frame out.
        actions: what the deadline asked for, and how often.
    """

    def __init__(self) -> None:
        self.done = self.damaged = self.skipped = self.bad = self.late = self.windows = 0
        self.unhealthy = self.refused = 0
        self.computed = self.needed = 0
        self.actions: Counter[str] = Counter()
        self.problems: Counter[HealthProblem] = Counter()
        self._stages: dict[str, Percentiles] = {}
        self._started = self._ended = time.perf_counter()

    def add_done(
        self,
        ms: Mapping[str, float],
        windows: int,
        grid: WindowGrid | None,
        *,
        late: bool,
        damaged: bool,
    ) -> None:
        """Count a label map that has been written; ``grid`` is None where a part was left out."""
        self.done += 1
        self.windows += windows
        if grid is not None:
            self.computed += grid.computed
            self.needed += grid.needed
        self.late += late
        self.damaged += damaged
        for stage, value in ms.items():
            self._stages.setdefault(stage, Percentiles()).add(value)
        self._ended = time.perf_counter()

    @property
    def fps(self) -> float:
        """Label maps per second, from the start to the last that was written."""
        elapsed = self._ended - self._started
        return self.done / elapsed if elapsed else 0.0

    @property
    def pixel_ratio(self) -> float | None:
        """Pixels computed over pixels needed; None where no frame was labelled whole."""
        return self.computed / self.needed if self.needed else None

    @property
    def miss_rate(self) -> float:
        """Share of frames that were late or skipped."""
        frames = self.done + self.skipped
        return (self.late + self.skipped) / frames if frames else 0.0

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        deadline = {
            "miss_rate": round(self.miss_rate, 6),
            "late": self.late,
            "skipped": self.skipped,
            "actions": dict(self.actions),
        }
        return {
            "done": self.done,
            "damaged": self.damaged,
            "bad": self.bad,
            "health": {
                "unhealthy": self.unhealthy,
                "refused": self.refused,
                "problems": {problem: self.problems[problem] for problem in HEALTH_PROBLEMS},
            },
            "deadline": deadline if self.actions else None,
            "windows": self.windows,
            "pixel_ratio": None if self.pixel_ratio is None else round(self.pixel_ratio, 4),
            "fps": round(self.fps, 3),
            "ms": {
                stage: {f"p{p}": round(times.at(p) or 0.0, 3) for p in (50, 95)}
                for stage, times in self._stages.items()
            },
        }
