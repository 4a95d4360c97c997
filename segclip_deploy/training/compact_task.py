"""What ``compact`` is asked for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.checkpoint_record import TrainSettings
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.latency_table import LATENCY_TABLE, LatencyTable
from segclip_deploy.artifacts.records import Record
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.training.crop_loader import Loading

__all__ = ["CompactionGoal", "CompactionTask", "Material"]


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
        values = (self.max_miou_drop, self.speed_up, self.max_latency_ms)
        given = [value for value in values if value is not None]
        if len(given) != 1:
            raise BadInput("give one of --max-miou-drop, --speed-up and --max-latency-ms")
        if given[0] <= 0 or (self.speed_up is not None and self.speed_up <= 1):
            raise BadInput("a drop and a latency are above 0, a speed-up is above 1")

    def ratio(self, parent_ms: float, part: float = 1.0) -> float:
        """The network's time by its parent's that is to be reached, after a part (0–1) of the rounds.

        CompactionGoal(speed_up=2).ratio(100.0)  # 0.5
        """
        if self.max_latency_ms is not None:
            return float((self.max_latency_ms / parent_ms) ** part)
        assert self.speed_up is not None  # a drop has no ratio of its own
        return float(self.speed_up**-part)

    @property
    def option(self) -> str:
        """The option that says it."""
        (said,) = ((name, value) for name, value in self.to_json().items() if value is not None)
        return f"--{said[0].replace('_', '-')} {said[1]:g}"


@dataclass(frozen=True)
class Material:
    """What a pruned network learns from.

    Attributes:
        dataset: with masks, and splits ``train`` and ``plan``; None: the tiles alone.
        tiles: unlabelled images and folders.
        loading: how they are read; None: as usual.
    """

    dataset: Dataset | None
    tiles: tuple[Path, ...] = ()
    loading: Loading | None = None

    @property
    def labelled(self) -> bool:
        """Whether there are masks."""
        return self.dataset is not None


@dataclass(frozen=True)
class CompactionTask:
    """A run of ``compact``.

    Attributes:
        source: the checkpoint; it teaches all rounds.
        out: the checkpoint to write.
        material: images.
        goal: what to reach.
        settings: of the distillation of one round.
        spec: the input size that is timed.
        target: that times networks here; None: the first that can.
        latency: a table of this checkpoint, from here or from another machine; None: it is measured here.
        rounds: where the goal is a time.
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

    def identity(self) -> str:
        """SHA-256 of all that decides what is made."""
        data = self.material.dataset
        asked = {
            "parent": sha256_file(self.source),
            "goal": self.goal.to_json(),
            "settings": self.settings.to_json(),
            "window": [self.spec.height, self.spec.width],
            "target": self.target,
            "latency": self.latency and LATENCY_TABLE.digest(self.latency),
            "rounds": self.rounds,
            "images": data and {name: list(data.names(name)) for name in ("train", "plan")},
            "tiles": [str(tile.resolve()) for tile in self.material.tiles],
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
