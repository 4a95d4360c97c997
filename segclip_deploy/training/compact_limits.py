"""Goals that cannot be reached, and the nearest that can."""

from __future__ import annotations

from pathlib import Path

from segclip_deploy.errors import BadInput, command
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.progress import Report
from segclip_deploy.training.compact_task import CompactionGoal, CompactionTask
from segclip_deploy.training.fit_channels import CLOSE, ChannelFitter, clear_of_noise
from segclip_deploy.training.stopwatch import Timing

__all__ = ["refuse_the_impossible", "too_accurate", "too_fast"]


def refuse_the_impossible(
    task: CompactionTask, model: SegCLIP, fitter: ChannelFitter, report: Report
) -> None:
    """Prune all of a model that can be, time that, and refuse a goal below it.

    Raises:
        BadInput: it is, or the parent is as fast already.
    """
    goal, table = task.goal, fitter.table
    if goal.max_miou_drop is not None:
        return
    if goal.ratio(table.network_ms) >= 1:
        raise BadInput(
            f"{task.source} takes {table.network_ms:.1f} ms already in {table.engine}",
            where=goal.option,
        )
    report("measuring the smallest network", 0, 0)
    timing = fitter.smallest(model)
    if timing.ratio > CLOSE * clear_of_noise(goal.ratio(timing.parent_ms)):
        raise too_fast(goal, timing)


def too_fast(goal: CompactionGoal, timing: Timing, folder: Path | None = None) -> BadInput:
    """The error of a goal that the fastest network there is does not reach.

    Args:
        folder: of the run, if it is kept.
    """
    how = "takes" if timing.measured else "would take, by the table,"
    nearest = f"--speed-up {1 / timing.ratio:.2f}"
    if goal.max_latency_ms is not None:
        nearest = f"--max-latency-ms {timing.ms + 0.05:.1f}"
    if goal.family is not None:
        nearest = f"a smallest size of {timing.ratio + 0.005:.2f}"
    remedy = f"the nearest that is possible is {nearest}"
    if timing.ratio > 1 / CLOSE:
        smaller = "segclip-deploy export CKPT -o BUNDLE --size ROWSxCOLUMNS"
        remedy = f"a smaller input is faster: {smaller}"
    if folder is not None:
        remedy = f"{remedy}; begin anew: {command('rm', '-r', folder)}"
    return BadInput(
        f"the fastest network that pruning makes {how} {timing.ms:.1f} ms, "
        f"its parent {timing.parent_ms:.1f} ms",
        where=goal.option,
        fix=remedy,
    )


def too_accurate(goal: CompactionGoal, speed_up: float, lost: float, folder: Path) -> BadInput:
    """The error of a drop that the first round exceeds.

    Args:
        speed_up: of that round.
        lost: by it, points of mIoU.
        folder: of the run, which is kept.
    """
    return BadInput(
        f"a speed-up of {speed_up:.2f} costs {lost:.2f} points already",
        where=goal.option,
        fix=f"the nearest that was reached is --max-miou-drop {lost + 0.005:.2f}; "
        f"begin anew, with that or a longer distillation: {command('rm', '-r', folder)}",
    )
