"""What a run of ``compact`` has done, so that it goes on when it was killed."""

from __future__ import annotations

import shutil
from pathlib import Path

from segclip_deploy.artifacts.files import refuse_foreign
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
        parent_miou: on split ``plan``, 0–1; None before it was measured.
        rounds: that were pruned; the last may not be tuned yet.
    """

    identity: str
    parent_miou: float | None = None
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
        BadInput: the folder holds something else.
        StaleArtifact: a run of other options was stopped here.
    """

    def __init__(self, task: CompactionTask) -> None:
        self.path = task.folder
        self._file = self.path / "state.json"
        # Written before all else: what else lies here is of this task, and no other.
        self.state = CompactionState(identity=task.identity())
        if self._file.exists():
            self.state = self._resume(self.state.identity)
        else:
            refuse_foreign(self.path, ours=False)
            self.path.mkdir(parents=True, exist_ok=True)
            self._keep(self.state)

    def _resume(self, identity: str) -> CompactionState:
        anew = f"begin anew: {command('rm', '-r', self.path)}"
        state = _STATE.read(self._file, fix=anew)
        if state.identity != identity:
            raise StaleArtifact(
                "belongs to a run of compact with other options or files",
                where=self.path,
                fix=f"repeat the same command to resume it, or {anew}",
            )
        return state

    def _keep(self, state: CompactionState) -> None:
        self.state = state
        _STATE.write(self._file, state)

    def begin(self, parent_miou: float) -> None:
        """Write down how accurate the parent is."""
        self._keep(with_fields(self.state, parent_miou=parent_miou))

    def add(self, timing: Timing) -> None:
        """Write down that a round was pruned."""
        rounds = (*self.state.rounds, CompactionRound(timing=timing))
        self._keep(with_fields(self.state, rounds=rounds))

    def complete(self, miou: float) -> None:
        """Write down that the last round was tuned."""
        *before, last = self.state.rounds
        rounds = (*before, with_fields(last, miou=miou))
        self._keep(with_fields(self.state, rounds=rounds))

    def remove(self) -> None:
        """Remove it, and all that a run would go on from."""
        shutil.rmtree(self.path)

    def pruned(self, number: int) -> Path:
        """The checkpoint that a round starts from; rounds are counted from 1."""
        return self.path / f"round{number}.pruned.safetensors"

    def tuned(self, number: int) -> Path:
        """The checkpoint that a round ends with."""
        return self.path / f"round{number}.safetensors"
