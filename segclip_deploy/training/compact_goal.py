"""What ``compact`` is to reach."""

from __future__ import annotations

from segclip_deploy.artifacts.records import Record
from segclip_deploy.errors import BadInput

__all__ = ["CompactionGoal"]


class CompactionGoal(Record, frozen=True):
    """What to reach: one of the three.

    Attributes:
        max_miou_drop: points of mIoU that the result may lose on split ``plan``; as fast as that allows.
        speed_up: times as many frames a second.
        max_latency_ms: milliseconds of one inference.

    Raises:
        BadInput: none of them, or several; or a number out of range.
    """

    max_miou_drop: float | None = None
    speed_up: float | None = None
    max_latency_ms: float | None = None

    def __post_init__(self) -> None:
        given = [
            v for v in (self.max_miou_drop, self.speed_up, self.max_latency_ms) if v is not None
        ]
        if len(given) != 1:
            raise BadInput("give one of --max-miou-drop, --speed-up and --max-latency-ms")
        if given[0] <= 0 or (self.speed_up is not None and self.speed_up <= 1):
            raise BadInput("a drop and a latency are above 0, a speed-up is above 1")

    def ratio(self, parent_ms: float, part: float) -> float:
        """The network's time by its parent's that is to be reached, after a part (0–1) of the rounds."""
        if self.max_latency_ms is not None:
            return float((self.max_latency_ms / parent_ms) ** part)
        assert self.speed_up is not None  # a drop has no ratio of its own
        return float(self.speed_up**-part)

    @property
    def option(self) -> str:
        """The option that says it."""
        return next(
            f"--{name.replace('_', '-')} {value:g}"
            for name, value in self.to_json().items()
            if value is not None
        )
