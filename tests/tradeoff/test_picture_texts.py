"""Who cannot see a picture of the report reads every figure of it."""

from __future__ import annotations

from segclip_deploy.tradeoff.picture_texts import describe_pictures
from segclip_deploy.tradeoff.roofline import LowerBound
from tests.support.sweeps import sweep_row


def test_the_texts_have_the_figures_of_the_pictures() -> None:
    fp32 = sweep_row("fp32", 60, 0.72)
    int8 = sweep_row("int8", 20, 0.715, iou={"land": None}, stages={"prepare": 1.5, "infer": 17.0})
    bound = LowerBound(
        bundle="dubai", bundle_sha256="0" * 64, board="orin-nano", precision="int8", ms=1.25, by_memory=0
    )  # fmt: skip
    rows = [int8, fp32]
    told = describe_pictures(rows, 99, {row.name: fp32 for row in rows}, best=int8, bounds=[bound])
    assert f"{int8.name}: {int8.percentile(99):.1f} ms, 71.50 %." in told["tradeoff"]
    assert told["tradeoff"].endswith(f"Recommended: {int8.name}.")
    assert f"{int8.name}: prepare 1.5, infer 17.0." in told["stages"]
    assert f"{fp32.name}: p50 {fp32.percentile(50):.1f} ms" in told["latencies"]
    assert f"{int8.name}: land absent. {fp32.name}: land +0.00." in told["classes"]
    assert "int8, dubai: at least 1.25 ms" in told["bounds"]
    assert "not measured" in told["bounds"]
    none = describe_pictures(rows, 99, {row.name: fp32 for row in rows}, best=None, bounds=[])
    assert none["tradeoff"].endswith("None is recommended.")
