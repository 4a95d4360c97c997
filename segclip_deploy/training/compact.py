"""``compact``: prune a checkpoint's encoder and distil it, in rounds, until it is as fast as was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from segclip_deploy.artifacts.checkpoint_record import Compaction
from segclip_deploy.artifacts.files import replace_directory, sha256_file
from segclip_deploy.errors import BadInput, SegclipError, command
from segclip_deploy.evaluation.dataset import Dataset
from segclip_deploy.model.checkpoint import build_model, load_checkpoint, save_checkpoint
from segclip_deploy.model.compute import repeatable
from segclip_deploy.progress import Report, saying, silent
from segclip_deploy.training.compact_inputs import (
    latency_of,
    learned_from,
    parent_labels,
    plan_miou,
)
from segclip_deploy.training.compact_limits import refuse_the_impossible, too_accurate, too_fast
from segclip_deploy.training.compact_result import Compacted, CompactNetwork
from segclip_deploy.training.compact_state import (
    CompactionFolder,
    CompactionRound,
    CompactionState,
)
from segclip_deploy.training.compact_task import CompactionTask
from segclip_deploy.training.distill import Distiller
from segclip_deploy.training.fit_channels import CLOSE, ChannelFitter
from segclip_deploy.training.importance import channel_importance
from segclip_deploy.training.loop import Progress
from segclip_deploy.training.stopwatch import Stopwatch

__all__ = ["compact"]

_STEP = 1.15  # speed-up of one round, where the loss of accuracy decides how many there are


def compact(
    task: CompactionTask,
    *,
    report: Report = silent,
    told: Callable[[Progress], None] = lambda _: None,
) -> Compacted:
    """Make a smaller checkpoint of one, as fast as was asked for, or as accurate; or a family of them.

    Each round prunes what the table says is slow and the images say is unimportant, and then lets
    the network learn from its parent. A killed run goes on when it is called again.

    Args:
        task: what is asked for.
        report: told how far it is.
        told: called after each step of a distillation.

    Raises:
        BadArtifact: the checkpoint cannot be used.
        BadInput: the goal cannot be reached: the nearest that can is named. The dataset lacks a split, or
            the checkpoint to write exists.
        MissingDependency: torch-pruning, or what times networks, is not installed.
        StaleArtifact: a run of other settings was stopped there, or the table is another checkpoint's.
    """
    if task.out.exists():
        remedy = "choose another -o, or remove it"
        if task.folder.exists():  # killed after all was done
            remedy = (
                f"it is complete; remove what it was made from: {command('rm', '-r', task.folder)}"
            )
        raise BadInput("exists already", where=task.out, fix=remedy)
    task.material.check()
    rounds = _Rounds(task, report)
    while not rounds.finished():
        if not rounds.state.is_pruned:
            rounds.prune()
        rounds.tune(told)
    return rounds.hand_over()


class _Rounds:
    """The rounds of a run."""

    def __init__(self, task: CompactionTask, report: Report) -> None:
        self.task, self.report, self.say = task, report, saying(report)
        self.checkpoint = load_checkpoint(task.source)
        self.folder = CompactionFolder(task)
        self.teacher = build_model(self.checkpoint)
        try:
            self.dataset, self.fitter, self.parent_miou = self._begin()
        except SegclipError:
            if self.folder.state.parent_miou is None:
                self.folder.remove()  # nothing to go on from, and other options are to follow
            raise

    def _begin(self) -> tuple[Dataset, ChannelFitter, float]:
        """What the rounds need, measured or as it was measured before: images, times, accuracy."""
        task, checkpoint, path, report = self.task, self.checkpoint, self.folder.path, self.report
        table = latency_of(task, checkpoint, path, report)
        watch = Stopwatch(build_model(checkpoint), checkpoint.bank, task.spec, table, path)
        fitter = ChannelFitter(watch)
        known = self.folder.state.parent_miou
        if known is None:
            refuse_the_impossible(task, build_model(checkpoint), fitter, report)
        dataset = learned_from(task, checkpoint, build_model(checkpoint), path, report)
        if known is None:
            known = plan_miou(build_model(checkpoint), checkpoint, dataset, task.settings)
            self.folder.begin(known)
        return dataset, fitter, known

    @property
    def state(self) -> CompactionState:
        """What is done."""
        return self.folder.state

    def finished(self) -> bool:
        """Whether no round is left: the time is reached, or the accuracy is spent."""
        done = self.state.rounds
        if not done or self.state.is_pruned:
            return False
        if self.task.goal.max_miou_drop is None:
            return len(done) == self.task.last_round
        before = done[-2].timing.ratio if len(done) > 1 else 1.0
        return not self._holds(done[-1]) or done[-1].timing.ratio > before / CLOSE

    def prune(self) -> None:
        """Prune the network of the last round, or the parent.

        Raises:
            BadInput: it cannot become as fast as this round is to make it.
        """
        done = self.state.rounds
        before = self.folder.tuned(len(done)) if done else self.task.source
        checkpoint = load_checkpoint(before)
        model = build_model(checkpoint)
        self.report("looking at what matters", 0, 0)
        task, teacher = self.task, build_model(self.checkpoint)
        device = task.settings.device
        labelled = parent_labels(
            teacher, self.checkpoint, self.dataset, task.settings, task.material
        )
        with repeatable(device):
            importance = channel_importance(
                build_model(checkpoint).to(device),
                checkpoint.bank,
                self.fitter.places(model),
                labelled,
            )
        self.report("pruning and measuring", 0, 0)
        now = done[-1].timing.ratio if done else 1.0
        fitted = self.fitter.fit(model, importance, now=now, wanted=self._wanted)
        timing = fitted.timing
        in_vain = not done and timing.ratio > 1 / CLOSE
        if not fitted.reached and (task.goal.max_miou_drop is None or in_vain):
            raise too_fast(task.goal, timing, self.folder.path)
        number = len(done) + 1
        small = replace(
            checkpoint, spec=fitted.model.spec, weights=fitted.model.state_dict(), training=None
        )
        save_checkpoint(self.folder.pruned(number), small)
        how = "" if timing.measured else " (by the table, not measured)"
        self.say(
            f"round {number}: pruned to {timing.ms:.1f} ms, its parent {timing.parent_ms:.1f}{how}"
        )
        self.folder.add(timing)

    def tune(self, told: Callable[[Progress], None]) -> None:
        """Distil the pruned network of the last round."""
        number = len(self.state.rounds)
        path = self.folder.tuned(number)
        if not path.with_name(path.name + ".resume").exists():
            path.unlink(missing_ok=True)  # killed between the first validation and resume point
        torch.manual_seed(self.task.settings.seed)
        Distiller(
            build_model(load_checkpoint(self.folder.pruned(number))),
            self.teacher,
            self.checkpoint,
            self.dataset,
            self.task.settings,
            path,
            labelled=self.task.material.labelled,
            loading=self.task.material.loading,
            reading=self.report,
        ).run(told)
        training = load_checkpoint(path).training
        assert training is not None  # it was trained just now
        assert training.plan.miou is not None  # a validation without one is an error
        told_of = f"agreement with its parent {training.plan.miou:.4f}"
        if self.task.material.labelled:
            told_of = f"plan mIoU {training.plan.miou:.4f}, its parent {self.parent_miou:.4f}"
        self.say(f"round {number}: {told_of}")
        self.folder.complete(training.plan.miou)

    def hand_over(self) -> Compacted:
        """Write the checkpoint of the last round that holds, or those of a family, and remove the folder.

        Raises:
            BadInput: not even the first one holds.
        """
        task, rounds = self.task, self.state.rounds
        held = [number for number, one in enumerate(rounds, 1) if self._holds(one)]
        if not held:
            first = rounds[0]
            lost = self._points_lost(first)
            raise too_accurate(task.goal, 1 / first.timing.ratio, lost, self.folder.path)
        if task.goal.family is None:
            last = held[-1]
            if task.goal.max_miou_drop is not None:  # the last one may be no faster than one before
                last = min(held, key=lambda number: rounds[number - 1].timing.ratio)
            networks = [self._write(last, task.out)]
        else:
            names = [f"{part:g}.safetensors" for part in task.goal.family]
            with replace_directory(task.out, contents=()) as folder:
                networks = [self._write(number, folder / names[number - 1]) for number in held]
            networks = [replace(one, path=task.out / one.path.name) for one in networks]
        self.folder.remove()
        return Compacted(tuple(networks), rounds)

    def _write(self, number: int, path: Path) -> CompactNetwork:
        """Write the checkpoint of a round."""
        done, task, labelled = self.state.rounds[number - 1], self.task, self.task.material.labelled
        assert done.miou is not None  # it was tuned
        compaction = Compaction(
            parent=sha256_file(task.source),
            engine=self.fitter.table.engine,
            window=(task.spec.height, task.spec.width),
            parent_ms=done.timing.parent_ms,
            ms=done.timing.ms,
            measured=done.timing.measured,
            load=done.timing.load,
            multiple=self.fitter.multiple,
            rounds=number,
            parent_miou=self.parent_miou if labelled else None,
            labels="dataset" if labelled else "parent",
        )
        tuned = load_checkpoint(self.folder.tuned(number))
        save_checkpoint(path, replace(tuned, compaction=compaction))
        return CompactNetwork(path, compaction, done.miou)

    # ---- what was asked for

    def _wanted(self, parent_ms: float) -> float:
        """The time by the parent's that the next round is to reach."""
        number, goal = len(self.state.rounds) + 1, self.task.goal
        if goal.max_miou_drop is not None:
            return float(_STEP**-number)
        return self.task.wanted(number, parent_ms)

    def _holds(self, done: CompactionRound) -> bool:
        """Whether a tuned round keeps the accuracy that was asked for."""
        drop = self.task.goal.max_miou_drop
        return drop is None or self._points_lost(done) <= drop

    def _points_lost(self, done: CompactionRound) -> float:
        assert done.miou is not None  # a round that is asked for was tuned
        return 100 * (self.parent_miou - done.miou)
