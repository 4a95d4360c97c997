"""What a run of ``compact`` has done, so that it goes on when it was killed."""

from __future__ import annotations

from pathlib import Path

from segclip_deploy.artifacts.records import Format, Record
from segclip_deploy.artifacts.records import replace as with_fields
from segclip_deploy.errors import StaleArtifact, command
from segclip_deploy.training.compact_task import CompactionTask
from segclip_deploy.training.stopwatch import Timing

__all__ = ["CompactionFolder", "CompactionRound", "CompactionState"]


class CompactionRound(Record, frozen=True):
    """A round of pruning and distillation.

    Attributes:
        timing: of the pruned network.
        miou: of the tuned one on split ``plan``, 0–1; None before it was tuned.
    """

    timing: Timing
    miou: float | None = None


class CompactionState(Record, frozen=True):
    """What a run has done so far.

    Attributes:
        identity: of the task.
        parent_miou: on split ``plan``, 0–1.
        rounds: that were pruned; the last may not be tuned yet.
    """

    identity: str
    parent_miou: float
    rounds: tuple[CompactionRound, ...] = ()

    @property
    def is_pruned(self) -> bool:
        """Whether a pruned network waits to be tuned."""
        return bool(self.rounds) and self.rounds[-1].miou is None


_STATE = Format("a run of compact", CompactionState, schema=1)


class CompactionFolder:
    """The files of a run.

    Args:
        task: whose they are.

    Raises:
        BadArtifact: its state cannot be read.
        StaleArtifact: a run of other options was stopped here.
    """

    def __init__(self, task: CompactionTask) -> None:
        self.path = task.folder
        self._file = self.path / "state.json"
        self.state: CompactionState | None = None
        anew = f"begin anew: {command('rm', '-r', self.path)}"
        if self._file.exists():
            self.state = _STATE.read(self._file, fix=anew)
            if self.state.identity != task.identity():
                raise StaleArtifact(
                    "belongs to a run of compact with other options or files",
                    where=self.path,
                    fix=f"repeat the same command to resume it, or {anew}",
                )
        self.path.mkdir(parents=True, exist_ok=True)

    def keep(self, state: CompactionState) -> None:
        """Write down what is done."""
        self.state = state
        _STATE.write(self._file, state)

    def add(self, timing: Timing) -> None:
        """Write down that a round was pruned."""
        assert self.state is not None  # a run begins with one
        rounds = (*self.state.rounds, CompactionRound(timing=timing))
        self.keep(with_fields(self.state, rounds=rounds))

    def complete(self, miou: float) -> None:
        """Write down that the last round was tuned."""
        assert self.state is not None  # a run begins with one
        *before, last = self.state.rounds
        rounds = (*before, with_fields(last, miou=miou))
        self.keep(with_fields(self.state, rounds=rounds))

    def pruned(self, number: int) -> Path:
        """The checkpoint that a round starts from; rounds are counted from 1."""
        return self.path / f"round{number}.pruned.safetensors"

    def tuned(self, number: int) -> Path:
        """The checkpoint that a round ends with."""
        return self.path / f"round{number}.safetensors"
