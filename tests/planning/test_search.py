from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segclip_deploy.artifacts.plan import (
    AccuracyLimits,
    Drop,
    FullEvaluation,
    PlanLatency,
    PrecisionPlan,
)
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.errors import GateFailed
from segclip_deploy.evaluation.accuracy import Accuracy, miou_drop
from segclip_deploy.evaluation.metrics import BoundaryTally, Confusion
from segclip_deploy.planning.latency import BlockTimes
from segclip_deploy.planning.plan_evaluator import ProxyScore
from segclip_deploy.planning.planner import worth
from segclip_deploy.planning.search import search
from segclip_deploy.planning.sensitivity import BlockEffect, heat_map, sensitivity

BLOCKS = ("stem", "stage1", "stage2", "decoder", "cff")


class FakeEvaluator:
    """Knows what each block costs, and that two of them cost more together than they add up to."""

    def __init__(self, costs: dict[str, float], together: float = 0.0) -> None:
        self.costs, self.together = costs, together
        self.split, self.asked = "plan", []
        self.dataset = SimpleNamespace(names=lambda _split: ("a", "b"))

    def drop(self, int8: Iterable[str]) -> float:
        blocks = set(int8)
        both = self.together if {"stem", "stage1"} <= blocks else 0.0
        return sum(self.costs[block] for block in blocks) + both

    def proxy(self, int8: Iterable[str]) -> ProxyScore:
        return ProxyScore(60 - 1000 * self.drop(int8), 1 - self.drop(int8))

    def evaluate(self, int8: Iterable[str]) -> FullEvaluation:
        self.asked.append(sorted(int8))
        drop = self.drop(int8)
        iou = {"road": 0.5 - 10 * drop, "water": None}
        return FullEvaluation(Drop(drop, drop - 0.001, drop + 0.001), 0.7 - drop, iou, iou)


def whole() -> PrecisionPlan:
    return PrecisionPlan(
        Scheme.TENSORRT, "0" * 64, {"graph": "fp32", **dict.fromkeys(BLOCKS, "int8")}
    )


def planned(evaluator: Any, limits: AccuracyLimits, times: Any = None) -> PrecisionPlan:
    effects = sensitivity(evaluator, BLOCKS, times)
    return search(evaluator, whole(), effects, limits)


@given(
    costs=st.lists(st.floats(0, 0.01), min_size=len(BLOCKS), max_size=len(BLOCKS)),
    together=st.floats(0, 0.02),
    allowed=st.floats(0, 0.02),
)
def test_a_plan_keeps_its_limits_as_a_whole(
    costs: list[float], together: float, allowed: float
) -> None:
    evaluator = FakeEvaluator(dict(zip(BLOCKS, costs, strict=True)), together)
    plan = planned(evaluator, AccuracyLimits(allowed))
    kept = plan.int8_blocks
    assert evaluator.drop(kept) <= allowed
    assert sorted(kept) in evaluator.asked  # measured, not added up
    assert set(plan.blocks) == set(whole().blocks)
    assert {plan.blocks[b] for b in BLOCKS if b not in kept} <= {"fp16"}


def test_only_what_hurts_is_excluded() -> None:
    costs = dict.fromkeys(BLOCKS, 0.0001) | {"stage1": 0.02}
    plan = planned(FakeEvaluator(costs), AccuracyLimits(0.003))
    assert [b for b in BLOCKS if plan.blocks[b] != "int8"] == ["stage1"]
    assert "drops by 2.04 points" in plan.evidence.excluded["stage1"]


def test_what_is_no_faster_in_int8_is_excluded_without_a_look() -> None:
    evaluator = FakeEvaluator(dict.fromkeys(BLOCKS, 0.0))
    times = BlockTimes(dict.fromkeys(BLOCKS, 2.0), dict.fromkeys(BLOCKS, 1.0) | {"cff": 2.5})
    plan = planned(evaluator, AccuracyLimits(0.003), times)
    assert [b for b in BLOCKS if plan.blocks[b] != "int8"] == ["cff"]
    assert plan.evidence.excluded == {"cff": "no faster in INT8"}


def test_a_floor_under_a_class_is_kept() -> None:
    evaluator = FakeEvaluator(dict.fromkeys(BLOCKS, 0.004))
    plan = planned(evaluator, AccuracyLimits(1.0, {"road": 0.45}))
    assert 0 < len(plan.int8_blocks) < len(BLOCKS)
    with pytest.raises(GateFailed, match="FP32 itself breaks a limit: IoU of road"):
        planned(evaluator, AccuracyLimits(1.0, {"road": 0.6}))


def test_it_says_when_int8_is_not_worth_it() -> None:
    plan = planned(FakeEvaluator(dict.fromkeys(BLOCKS, 0.0)), AccuracyLimits(0.003))

    def said(speed_up: float | None, beside: str = "f32") -> str:
        latency = speed_up and PlanLatency("openvino", beside, speed_up, 1.0, 30, 5)
        return worth(replace(plan, evidence=replace(plan.evidence, latency=latency)))

    assert "INT8 is 1.04× for" in said(1.04)
    assert said(1.04).endswith("not worth it, fly FP32")
    assert "not worth it" not in said(1.8)
    assert "INT8, BF16 beside it, is 1.80× for" in said(1.8, "bf16")
    assert "only the device can tell" in said(None)


def accuracy(counts: list[list[list[int]]]) -> Accuracy:
    names = ("land", "water")
    by_image = tuple(Confusion(np.array(c), names) for c in counts)
    pooled = sum(by_image, Confusion.empty(names))
    images = tuple(str(i) for i in range(len(counts)))
    return Accuracy(pooled, BoundaryTally.empty(names), images, by_image)


def test_the_drop_is_paired() -> None:
    """Images differ wildly, the loss on each is alike: its bounds are narrow all the same."""
    rng = np.random.default_rng(3)
    hits = rng.integers(300, 900, 12)
    before = accuracy([[[h, 1000 - h], [1000 - h, h]] for h in hits])
    after = accuracy([[[h - 20, 1020 - h], [1020 - h, h - 20]] for h in hits])
    drop = miou_drop(before, after)
    assert drop.low <= drop.value <= drop.high
    assert drop.low > 0
    spread = np.ptp([c.miou for c in before.by_image])
    assert drop.high - drop.low < 0.1 * spread
    assert miou_drop(before, before) == Drop(0, 0, 0)
    with pytest.raises(ValueError, match="different images"):
        miou_drop(before, accuracy([[[1, 0], [0, 1]]]))


def test_the_bounds_of_a_drop_are_those_of_95_percent() -> None:
    """Of 40 images every other one loses 0.2 of mIoU, so a resample of k such loses 0.2 k/40.

    k is binomial. Its quantiles are counted here: 14 and 26 at 95 %, 15 and 25 at 90 %, 12 and 28 at 99 %.
    """

    def scored(hits: int) -> list[list[int]]:
        return [[hits, 0], [1000 - hits, 0]]  # land has IoU hits/1000, water 0

    def quantile(share: float) -> int:
        below = np.cumsum([math.comb(40, k) / 2**40 for k in range(41)])
        return int(np.searchsorted(below, share))

    before = accuracy([scored(900)] * 40)
    after = accuracy([scored(900 if index % 2 else 500) for index in range(40)])
    drop = miou_drop(before, after)
    bounds = [0.2 * quantile(share) / 40 for share in (0.025, 0.975)]
    assert (drop.low, drop.high) == pytest.approx(tuple(bounds))
    assert drop.value == pytest.approx(0.1)


def test_the_best_of_three_is_excluded_at_each_step() -> None:
    """Alone each of stem and stage1 looks worst, for they hurt together; measured, cff saves most.

    The order of trying is stem, stage1, cff: neither the first nor the first two, but the third is
    the best, and decoder, still better, is not among those tried.
    """
    costs = {"stem": 0.002, "stage1": 0.003, "cff": 0.004, "decoder": 0.005, "stage2": 0.0}
    evaluator = FakeEvaluator(costs)
    order = ("stem", "stage1", "cff", "decoder", "stage2")
    effects = [
        replace(effect, excluded=ProxyScore(60.0 - order.index(effect.block), 1.0))
        for effect in sensitivity(evaluator, BLOCKS, None)  # type: ignore[arg-type]
    ]
    evaluator.asked.clear()
    plan = search(evaluator, whole(), effects, AccuracyLimits(0.0101))  # type: ignore[arg-type]
    assert [b for b in BLOCKS if plan.blocks[b] != "int8"] == ["cff"]
    tried = [({*BLOCKS} - {*asked}) for asked in evaluator.asked[1:]]
    assert tried == [{"stem"}, {"stage1"}, {"cff"}]


def test_a_heat_map_is_drawn_with_and_without_exact_figures(tmp_path: Path) -> None:
    effects = sensitivity(FakeEvaluator(dict.fromkeys(BLOCKS, 0.001)), BLOCKS, None)  # type: ignore[arg-type]
    assert {effect.only_exact is None for effect in effects} == {True, False}
    assert all(isinstance(effect, BlockEffect) for effect in effects)
    heat_map(effects, tmp_path / "map.png", title="test")
    with Image.open(tmp_path / "map.png") as image:
        assert image.width > 800
    assert [p.name for p in tmp_path.iterdir()] == ["map.png"]


def test_in_a_heat_map_what_lies_inside_its_bounds_is_grey(tmp_path: Path) -> None:
    """Bounds of the fake are ±0.1 point: a loss of 0.09 may be a gain, one of 0.2 is none."""

    def grey(cost: float) -> int:
        effects = sensitivity(FakeEvaluator(dict.fromkeys(BLOCKS, cost)), BLOCKS, None)  # type: ignore[arg-type]
        heat_map(effects, tmp_path / "map.png", title="test")
        with Image.open(tmp_path / "map.png") as image:
            return int((abs(np.asarray(image)[..., :3].astype(int) - 222) <= 1).all(-1).sum())

    unsure, sure = grey(0.0009), grey(0.002)
    assert unsure > 20_000  # the cells of four blocks that were evaluated alone
    assert sure < 0.1 * unsure  # the edges of letters


def test_in_a_heat_map_small_losses_stay_pale(tmp_path: Path) -> None:
    """A loss that is sure and a tenth of a point is no dark red, though none is larger."""

    def dark(cost: float) -> int:
        effects = sensitivity(FakeEvaluator(dict.fromkeys(BLOCKS, cost)), BLOCKS, None)  # type: ignore[arg-type]
        effects = tuple(replace(effect, only=ProxyScore(60.0, 1.0)) for effect in effects)
        heat_map(effects, tmp_path / "map.png", title="test")
        with Image.open(tmp_path / "map.png") as image:
            red, green, blue = np.moveaxis(np.asarray(image)[..., :3], -1, 0)
        return int(((red > 120) & (green < 60) & (blue < 60)).sum())

    assert dark(0.0011) == 0
    assert dark(0.02) > 1000
