"""``plan``: the fastest mix of precisions whose measured accuracy is still good enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from segclip_deploy.artifacts.plan import PrecisionPlan
from segclip_deploy.errors import GateFailed
from segclip_deploy.planning.plan_evaluator import Judge, Verdict
from segclip_deploy.planning.sensitivity import BlockEffect

__all__ = ["Limits", "able_blocks", "search"]

_TRIED = 3  # blocks whose sparing is measured exactly at each step


@dataclass(frozen=True)
class Limits:
    """What a plan must keep to.

    Attributes:
        max_miou_drop: shares of 1, on the judging split.
        min_class_iou: by class name.
    """

    max_miou_drop: float
    min_class_iou: Mapping[str, float]

    def broken(self, verdict: Verdict) -> str | None:
        """Which limit a verdict breaks, in words; None where it keeps all."""
        if verdict.drop.value > self.max_miou_drop:
            return (
                f"mIoU drops by {100 * verdict.drop.value:.2f} points, "
                f"{100 * self.max_miou_drop:.2f} were allowed"
            )
        for name, least in self.min_class_iou.items():
            iou = verdict.iou[name]
            if iou is None or iou < least:
                return f"IoU of {name} is {iou}, at least {least} was asked for"
        return None


def able_blocks(plan: PrecisionPlan) -> list[str]:
    """The blocks that are INT8 in a plan, in the graph's order."""
    return [block for block, precision in plan.blocks.items() if precision == "int8"]


def search(
    judge: Judge,
    plan: PrecisionPlan,
    effects: Sequence[BlockEffect],
    limits: Limits,
    report: Callable[[str], None] = lambda _text: None,
) -> PrecisionPlan:
    """Spare blocks from INT8, one by one, until the limits are kept.

    Effects of blocks do not add up, so every step is measured as the whole plan it would make;
    sensitivity only says which to try. Blocks that the engine runs no faster in INT8 go first.

    Args:
        judge: measures on the judging split.
        plan: everything INT8 that can be.
        effects: of its blocks.
        limits: to keep to.
        report: called with a line for each step.

    Raises:
        GateFailed: even without INT8 a limit is broken.
    """
    slower = {
        e.block
        for e in effects
        if e.high_ms is not None and e.int8_ms is not None and e.int8_ms >= e.high_ms
    }
    int8 = [block for block in able_blocks(plan) if block not in slower]
    spared = dict.fromkeys(sorted(slower), "no faster in INT8")
    order = sorted(effects, key=lambda e: -e.spared.sqnr_db)
    verdict = judge.verdict(int8)
    steps: list[dict[str, Any]] = [_step(int8, verdict, None)]
    while (broken := limits.broken(verdict)) and int8:
        tried = [e.block for e in order if e.block in int8][:_TRIED]
        results = {b: judge.verdict([x for x in int8 if x != b]) for b in tried}
        block = min(tried, key=lambda b: results[b].drop.value)
        report(f"{broken}: sparing {block}")
        spared[block] = broken
        int8, verdict = [b for b in int8 if b != block], results[block]
        steps.append(_step(int8, verdict, block))
    if broken:
        raise GateFailed(f"FP32 itself breaks a limit: {broken}")
    return replace(
        plan,
        blocks={
            name: plan.scheme.rules.high if name in spared else precision
            for name, precision in plan.blocks.items()
        },
        evidence={
            "split": judge.split,
            "images": len(judge.dataset.names(judge.split)),
            "limits": asdict(limits),
            "verdict": verdict.to_json(),
            "spared": spared,
            "steps": steps,
        },
    )


def _step(int8: Sequence[str], verdict: Verdict, spared: str | None) -> dict[str, Any]:
    return {
        "int8_blocks": len(int8),
        "spared": spared,
        "miou_drop_points": round(100 * verdict.drop.value, 3),
    }
