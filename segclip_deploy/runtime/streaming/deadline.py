"""The deadline of a label map: what to leave out of a frame so that the rest is there in time.

The policy, in this order: overlap goes first, then windows at the border, then the frame. A frame
is never skipped twice in a row, or a stall would be remembered for ever.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Literal

__all__ = ["Action", "Decision", "Pacer", "central_block", "decide"]

Action = Literal["full", "no overlap", "fewer windows", "skip"]

_REMEMBERED = 15  # inferences that the running median is taken over


@dataclass(frozen=True)
class Decision:
    """What is done of a frame.

    Attributes:
        action: the step of the policy.
        rows, columns: windows to label around the frame's centre; all of them, unless
            the action is ``"fewer windows"``.
    """

    action: Action
    rows: int
    columns: int


def decide(
    left_ms: float,
    pass_ms: float | None,
    *,
    batch: int,
    full: tuple[int, int],
    bare: tuple[int, int],
    must: bool,
) -> Decision:
    """The most that fits into the time that is left.

    Args:
        left_ms: until the deadline; negative where it has passed.
        pass_ms: what one inference is expected to take, cutting and joining included; None:
            nothing is known yet, and everything is done.
        batch: windows per inference.
        full: (rows, columns) of windows with the overlap as asked for.
        bare: the same without overlap.
        must: label one window at least.
    """
    if pass_ms is None:
        return Decision("full", *full)
    fits = batch * int(max(0.0, left_ms) // max(pass_ms, 1e-9))
    if full[0] * full[1] <= fits:
        return Decision("full", *full)
    if bare != full and bare[0] * bare[1] <= fits:
        return Decision("no overlap", *bare)
    if fits or must:
        rows, columns = central_block(max(fits, 1), bare)
        whole: Action = "no overlap" if bare != full else "full"  # nothing left to leave out
        return Decision(whole if (rows, columns) == bare else "fewer windows", rows, columns)
    return Decision("skip", 0, 0)


def central_block(most: int, grid: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of the largest block of at most ``most`` windows in a grid; the squarest of equals."""
    blocks = ((r, min(most // r, grid[1])) for r in range(1, min(most, grid[0]) + 1))
    return max(blocks, key=lambda block: (block[0] * block[1], -abs(block[0] - block[1])))


class Pacer:
    """Decides frame by frame, from the times that this run has measured.

    Args:
        limit_ms: of a label map. The clock starts when a live frame was decoded, or when a
            file's frame is taken to be labelled, and stops when its labels are there.
        batch: windows per inference.
    """

    def __init__(self, limit_ms: float, batch: int) -> None:
        self.limit_ms, self.batch = limit_ms, batch
        self._passes: deque[float] = deque(maxlen=_REMEMBERED)
        self._skipped = False

    def decide(self, spent_ms: float, full: tuple[int, int], bare: tuple[int, int]) -> Decision:
        """What to do of a frame whose clock has run for ``spent_ms``."""
        expected = median(self._passes) if self._passes else None
        decision = decide(
            self.limit_ms - spent_ms,
            expected,
            batch=self.batch,
            full=full,
            bare=bare,
            must=self._skipped,
        )
        self._skipped = decision.action == "skip"
        return decision

    def learn(self, total_ms: float, windows: int) -> None:
        """Take in what a frame took, over all stages."""
        passes = -(-windows // self.batch)
        self._passes.append(total_ms / passes)
