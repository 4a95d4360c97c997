"""Which engine to fly: the front, the limits, missions and bounds, on figures whose answer is known."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segclip_deploy.artifacts.plan import Drop
from segclip_deploy.errors import BadInput
from segclip_deploy.evaluation.accuracy import Accuracy
from segclip_deploy.evaluation.metrics import BoundaryTally, Confusion
from segclip_deploy.export.costs import Operator
from segclip_deploy.tradeoff import pareto_plot
from segclip_deploy.tradeoff.comparison import EngineComparison, SpeedUp, compare_with
from segclip_deploy.tradeoff.mission import SENSORS, Mission, demand, sensor
from segclip_deploy.tradeoff.recommend import FlightLimits, recommend
from segclip_deploy.tradeoff.roofline import BOARDS, find_boards, lower_bound
from segclip_deploy.tradeoff.row import Row, pareto_front

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)


def row(name: str, ms: float, miou: float, **more: Any) -> Row:
    """A row whose every frame took ``ms``; FP32 has mIoU 0.7."""
    values: dict[str, Any] = {
        "reference": "fp32",
        "target": "openvino",
        "precision": "int8",
        "window": (512, 512),
        "batch": 1,
        "overlap": 0,
        "threads": 2,
        "bytes": 10**7,
        "sha256": "0" * 64,
        "bundle_sha256": "1" * 64,
        "ground_truth_sha256": "2" * 64,
        "drop": Drop(0.7 - miou, 0.69 - miou, 0.71 - miou),
        "iou": {"land": miou, "building": miou - 0.2, "snow": None},
        "areas": {},
        "frame_ms": [ms] * 10,
        "windows": 4.0,
        "pixel_ratio": 1.5,
        "stages": {},
        "backend": "x",
        "joules": None,
    }
    return Row(name=name, miou=miou, **{**values, **more})


FAST, MIDDLE, SLOW = row("fast", 10, 0.60), row("middle", 20, 0.698), row("slow", 50, 0.7)


def test_delta_miou_is_negative_where_accuracy_is_lost() -> None:
    lost = Drop(0.0012, -0.0005, 0.003)
    assert (lost.delta, lost.delta_interval) == ("−0.12", "[−0.30, +0.05]")
    assert Drop(0.0, -1e-9, 1e-9).delta_interval == "[+0.00, +0.00]"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (FlightLimits(), "fast"),
        (FlightLimits(miou_drop=0.003), "middle"),
        (FlightLimits(miou_drop=0.001), "slow"),
        (FlightLimits(class_iou={"building": 0.49}), "middle"),
        (FlightLimits(latency_ms=15), "fast"),
    ],
)
def test_the_fastest_within_the_limits_flies(limits: FlightLimits, expected: str) -> None:
    advice = recommend([SLOW, FAST, MIDDLE], limits)
    assert advice.row is not None
    assert advice.row.name == expected


def test_a_difference_in_the_noise_goes_to_the_more_accurate() -> None:
    advice = recommend([row("a", 10.0, 0.60), row("b", 10.1, 0.65)], FlightLimits())
    assert advice.row is not None
    assert advice.row.name == "b"


def test_where_none_fits_the_nearest_and_its_limits_are_named() -> None:
    advice = recommend([FAST, MIDDLE, SLOW], FlightLimits(latency_ms=18, miou_drop=0.005))
    assert advice.row is None
    assert advice.nearest == MIDDLE
    assert "p99 20 ms, at most 18 ms" in advice.why
    advice = recommend([MIDDLE], FlightLimits(joules=1, class_iou={"snow": 0.1}))
    assert "energy could not be measured here" in advice.why
    assert "snow is not in the evaluation images" in advice.why
    assert recommend([], FlightLimits()).why == "no engine passed verification"


@PROPERTY
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_beats(pairs: list[tuple[int, int]]) -> None:
    rows = [row(str(i), ms, miou / 10) for i, (ms, miou) in enumerate(pairs)]
    places = {r.name: (r.percentile(50), r.miou) for r in rows}
    front = {places[name] for name in pareto_front(places)}

    def beaten(one: Row) -> bool:
        return any(
            other.percentile(50) <= one.percentile(50)
            and other.miou >= one.miou
            and (other.percentile(50), other.miou) != (one.percentile(50), one.miou)
            for other in rows
        )

    assert front == {(r.percentile(50), r.miou) for r in rows if not beaten(r)}


def scored(*hits: int) -> Accuracy:
    """Two classes of 1000 pixels in each image, so many of each labelled rightly."""
    names = ("land", "water")
    by_image = tuple(Confusion(np.array([[h, 1000 - h], [1000 - h, h]]), names) for h in hits)
    pooled = sum(by_image, Confusion.empty(names))
    images = tuple(str(index) for index in range(len(hits)))
    return Accuracy(pooled, BoundaryTally.empty(names), images, by_image)


def test_an_engine_says_by_how_much_it_wins_and_whether_that_is_sure() -> None:
    """Twice as fast in every frame; 20 pixels worse in every image, however hard that is."""
    engine = row("a", 10, 0.6, frame_ms=[9, 10, 11] * 20)
    other, alike = (
        row("b", 0, 0.6, frame_ms=[18, 20, 22] * 20),
        row("c", 0, 0.6, frame_ms=[11, 10] * 9),
    )
    accuracies = {
        "a": scored(300, 500, 900),
        "b": scored(320, 520, 920),
        "c": scored(310, 490, 900),  # better in one image, worse in another
    }
    first, second = compare_with(engine, [engine, other, alike], accuracies, 50)
    assert (first.engine, first.other, second.other) == ("a", "b", "c")
    assert first.speed_up.value == 2
    assert first.speed_up.low <= 2 <= first.speed_up.high
    assert first.speed_up.low > 1
    assert 0 < first.drop.low <= first.drop.value <= first.drop.high  # lost by flying a
    assert first.speed_up.sure
    assert first.drop.sure
    assert not second.speed_up.sure
    assert not second.drop.sure
    assert first.told.startswith("2.00× as fast as b [")
    assert "ΔmIoU −" in first.told
    assert first.told.endswith("points (sure)")
    assert "(not sure), ΔmIoU" in second.told


def comparison(other: str, speed_up: SpeedUp, drop: Drop) -> EngineComparison:
    return EngineComparison(engine="fast", other=other, speed_up=speed_up, drop=drop)


def test_a_difference_inside_its_bounds_is_drawn_as_none() -> None:
    alike, slower = SpeedUp(value=2.0, low=0.9, high=2.2), SpeedUp(value=5.0, low=4.0, high=6.0)
    lost, unknown = Drop(0.1, 0.05, 0.2), Drop(0.098, -0.01, 0.2)
    found = [comparison("middle", alike, unknown), comparison("slow", slower, lost)]
    marks = {mark.row.name: mark for mark in pareto_plot._marks([FAST, MIDDLE, SLOW], 50, found)}
    assert (marks["fast"].ms, marks["fast"].miou) == (10, 0.60)
    assert (marks["middle"].ms, marks["middle"].miou) == (10, 0.60)
    assert (marks["slow"].ms, marks["slow"].miou) == (50, 0.7)
    assert marks["middle"].miou_bounds == pytest.approx((0.59, 0.80))
    assert marks["fast"].miou_bounds == (0.60, 0.60)  # it does not differ from itself


@pytest.mark.parametrize(("spread", "points"), [(0.0001, 2.0), (0.05, 5.0)])
def test_the_axis_never_shows_less_than_two_points(spread: float, points: float) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    rows = [row("fast", 10, 0.6), row("b", 10.1, 0.6 + spread)]
    sure = comparison("b", SpeedUp(value=1.01, low=1.005, high=1.02), Drop(spread, spread, spread))
    pareto_plot._least_span(axes, pareto_plot._marks(rows, 50, [sure]))
    low, high = axes.get_ylim()
    assert high - low >= points
    left, right = axes.get_xlim()
    assert right / left >= 2
    assert low <= 60 <= 60 + 100 * spread <= high


def test_the_picture_names_what_stands_in_one_place_together() -> None:
    found = [
        comparison("middle", SpeedUp(value=2.0, low=0.9, high=2.2), Drop(0.098, -0.01, 0.2)),
        comparison("slow", SpeedUp(value=5.0, low=4.0, high=6.0), Drop(0.1, 0.05, 0.2)),
    ]
    data = pareto_plot.tradeoff([FAST, MIDDLE, SLOW], 99, found, best=FAST)
    with Image.open(BytesIO(data)) as image:
        assert image.width == 1400
    figure, axes = pareto_plot.new_figure("", 7, 4.8)
    marks = pareto_plot._marks([FAST, MIDDLE, SLOW], 99, found)
    pareto_plot._least_span(axes, marks)
    pareto_plot._name_marks(figure, axes, marks)
    assert [text.get_text() for text in axes.texts] == ["fast\n= middle", "slow"]


def test_a_mission_is_that_of_the_published_example() -> None:
    """20 megapixels at 2.7 cm, 70/70, 10 m/s: a photo in some 3 s."""
    found = demand(Mission(SENSORS["dji-p4p"], 100, 10), (1024, 1024), 0)
    assert found.ground_sample_distance == pytest.approx(0.0274, abs=1e-4)
    assert found.footprint == pytest.approx((100, 150))
    assert found.interval == pytest.approx(3.0)
    assert found.windows == 24  # 4 × 6
    assert found.windows_per_second == pytest.approx(8.0)
    assert found.square_kilometres_per_hour == pytest.approx(10 * 150 * 0.3 * 3.6 / 1000)


def test_a_photo_smaller_than_the_window_is_one_window() -> None:
    assert demand(Mission(sensor("640x480,6.4mm,5mm"), 50, 5), (1024, 1024), 256).windows == 1


@pytest.mark.parametrize("text", ["dji-p2", "4000x2250", "0x2250,6mm,3mm", "4000x2250,6mm,0mm"])
def test_no_sensor_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="dji-p1, dji-m3e"):
        sensor(text)


def test_no_mission_is_refused() -> None:
    with pytest.raises(BadInput, match="above zero"):
        Mission(SENSORS["dji-p1"], 0, 5)
    with pytest.raises(BadInput, match="0 to below 1"):
        Mission(SENSORS["dji-p1"], 100, 5, front=1.0)


def test_a_bound_is_the_slower_of_arithmetic_and_memory() -> None:
    board = BOARDS["agx-orin"]
    macs = Operator("a", macs=10**10, weights=10, read=(10,), written=10)
    bytes_ = Operator("b", macs=1, weights=10**9, read=(10,), written=10)
    found = lower_bound("net", "a" * 64, [macs, bytes_], "agx-orin", "fp16")
    arithmetic = 2e10 / (board.fp16 * 1e12)
    transfer = 2e9 / (board.bandwidth * 1e9)
    assert found.ms == pytest.approx(1e3 * (arithmetic + transfer))
    assert found.by_memory == pytest.approx(transfer / (arithmetic + transfer))
    cached = Operator(
        "c", macs=0, weights=0, read=(4 * 10**6,), written=0
    )  # 8 MB stay in the cache
    assert lower_bound("net", "a" * 64, [cached], "agx-orin", "fp16").ms == 0
    with pytest.raises(BadInput, match="none of orin-nano"):
        find_boards("orin-nano,nano")
