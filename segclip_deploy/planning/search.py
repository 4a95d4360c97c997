"""``plan``: the fastest mix of precisions whose measured accuracy is still good enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from segclip_deploy.artifacts.plan import (
    AccuracyLimits,
    Evidence,
    PrecisionPlan,
    SearchStep,
)
from segclip_deploy.artifacts.records import replace
from segclip_deploy.errors import GateFailed
from segclip_deploy.planning.plan_evaluator import PlanEvaluator
from segclip_deploy.planning.sensitivity import BlockEffect

__all__ = ["search"]

_TRIED = 3  # blocks whose exclusion is measured exactly at each step


def search(
    evaluator: PlanEvaluator,
    plan: PrecisionPlan,
    effects: Sequence[BlockEffect],
    limits: AccuracyLimits,
    report: Callable[[str], None] = lambda _text: None,
) -> PrecisionPlan:
    """Exclude blocks from INT8, one by one, until the limits are kept.

    Effects of blocks do not add up, so every step is measured as the whole plan it would make;
    sensitivity only says which to try. Blocks that the engine runs no faster in INT8 go first.

    Args:
        evaluator: measures on the evaluation split.
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
    int8 = [block for block in plan.int8_blocks if block not in slower]
    excluded = dict.fromkeys(sorted(slower), "no faster in INT8")
    order = sorted(effects, key=lambda e: -e.excluded.sqnr_db)
    evaluation, last = evaluator.evaluate(int8), None
    steps = []
    while True:
        points = round(100 * evaluation.drop.value, 3)
        steps.append(SearchStep(int8_blocks=len(int8), excluded=last, miou_drop_points=points))
        broken = limits.broken(evaluation)
        if not broken or not int8:
            break
        tried = [e.block for e in order if e.block in int8][:_TRIED]
        results = {b: evaluator.evaluate([x for x in int8 if x != b]) for b in tried}
        last = min(tried, key=lambda b: results[b].drop.value)
        report(f"{broken}: excluding {last}")
        excluded[last] = broken
        int8, evaluation = [b for b in int8 if b != last], results[last]
    if broken:
        raise GateFailed(f"FP32 itself breaks a limit: {broken}")
    return replace(
        plan,
        blocks={
            name: plan.scheme.rules.high if name in excluded else precision
            for name, precision in plan.blocks.items()
        },
        evidence=Evidence(
            split=evaluator.split,
            images=len(evaluator.dataset.names(evaluator.split)),
            limits=limits,
            evaluation=evaluation,
            excluded=excluded,
            steps=tuple(steps),
        ),
    )
