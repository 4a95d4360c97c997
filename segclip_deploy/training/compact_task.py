"""What ``compact`` is asked for."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.checkpoint_record import TrainSettings
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.latency_table import LATENCY_TABLE, LatencyTable
from segclip_deploy.artifacts.records import Record
from segclip_deploy.errors import BadInput
from segclip_deploy.training.fit_channels import CLOSE
from segclip_deploy.training.material import Material

__all__ = ["CompactionGoal", "CompactionTask"]

_GOALS = "--max-miou-drop, --speed-up, --max-latency-ms and --family"


class CompactionGoal(Record, frozen=True):
    """What to reach: one of the four.

    Attributes:
        max_miou_drop: points of mIoU that the result may lose on split ``plan``; as fast as that allows.
        speed_up: times as many frames a second.
        max_latency_ms: milliseconds of one inference.
        family: times of several networks by their parent's, falling: 0.75, 0.5, 0.35.

    Raises:
        BadInput: none of them, or several; or a number out of range.
    """

    max_miou_drop: float | None = None
    speed_up: float | None = None
    max_latency_ms: float | None = None
    family: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in self.to_json().values()) != 1:
            raise BadInput(f"give one of {_GOALS}")
        for value in (self.max_miou_drop, self.max_latency_ms):
            if value is not None and not 0 < value < math.inf:
                raise BadInput("a drop and a latency are above 0", where=self.option)
        if self.speed_up is not None and not 1 < self.speed_up < math.inf:
            raise BadInput("a speed-up is above 1", where=self.option)
        if self.family is not None:
            falling = (1.0, *self.family, 0.0)
            if len(falling) == 2 or not all(one > two * CLOSE for one, two in pairwise(falling)):
                raise BadInput(
                    "the sizes fall, between 1 and 0, by more than 2 %, which is noise: 0.75,0.5,0.35",
                    where=self.option,
                )

    def ratio(self, parent_ms: float) -> float:
        """The network's time by its parent's that is to be reached; of a family, its fastest.

        CompactionGoal(speed_up=2).ratio(100.0)  # 0.5
        """
        if self.family is not None:
            return self.family[-1]
        if self.max_latency_ms is not None:
            return self.max_latency_ms / parent_ms
        assert self.speed_up is not None  # a drop has no ratio of its own
        return 1 / self.speed_up

    @property
    def option(self) -> str:
        """The option that says it."""
        (said,) = ((name, value) for name, value in self.to_json().items() if value is not None)
        value = (
            ",".join(f"{one:g}" for one in said[1]) if self.family is not None else f"{said[1]:g}"
        )
        return f"--{said[0].replace('_', '-')} {value}"


@dataclass(frozen=True)
class CompactionTask:
    """A run of ``compact``.

    Attributes:
        source: the checkpoint; it teaches all rounds.
        out: the checkpoint to write; of a family, the folder for them.
        material: images.
        goal: what to reach.
        settings: of the distillation of one round.
        spec: the input size that is timed.
        target: that times networks here; None: the first that can.
        latency: a table of this checkpoint, from here or from another machine; None: it is measured here.
        rounds: where the goal is one time; a network of a family has one.
    """

    source: Path
    out: Path
    material: Material
    goal: CompactionGoal
    settings: TrainSettings
    spec: InputSpec
    target: str | None = None
    latency: LatencyTable | None = None
    rounds: int = 2

    @property
    def folder(self) -> Path:
        """Where a run keeps what it goes on from; it is removed when the checkpoint is written."""
        return self.out.with_name(self.out.name + ".rounds")

    @property
    def last_round(self) -> int:
        """How many rounds there are, where the goal is a time, or several."""
        return self.rounds if self.goal.family is None else len(self.goal.family)

    def wanted(self, number: int, parent_ms: float) -> float:
        """The time by the parent's that a round is to reach, where the goal is a time; rounds count from 1."""
        if self.goal.family is not None:
            return self.goal.family[number - 1]
        return float(self.goal.ratio(parent_ms) ** (number / self.rounds))

    def identity(self) -> str:
        """SHA-256 of all that decides what is made.

        Raises:
            BadInput: an image or a mask is missing.
        """
        asked = {
            "parent": sha256_file(self.source),
            "goal": self.goal.to_json(),
            "settings": self.settings.to_json(),
            "window": [self.spec.height, self.spec.width],
            "target": self.target,
            "latency": self.latency and LATENCY_TABLE.digest(self.latency),
            "rounds": self.rounds,
            "material": self.material.identity(),
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
