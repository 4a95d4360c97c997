"""Where a frame was taken, from readings at other times; and which readings are not believed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from segclip_deploy.runtime.io.telemetry.quaternions import (
    Quaternion,
    angles_of,
    multiply,
    quaternion_of,
    slerp,
)
from segclip_deploy.runtime.io.telemetry.track import REACH_S, Track

S = 1_000_000_000
TAKE_OFF = 1_700_000_000 * S


def track(told: list[str]) -> Track:
    return Track("flight", report=told.append)


def flown(told: list[str], seconds: int = 60, **changed: tuple[float, float]) -> Track:
    """North at 11 m/s, a fix a second; ``changed``: t12=(lat, lon) in place of that of second 12."""
    made = track(told)
    for second in range(seconds):
        place = changed.get(f"t{second}", (46 + 1e-4 * second, 7.0))
        made.add_position(TAKE_OFF + second * S, *place, 500.0 + second)
    return made


def as_scipy(turn: Quaternion) -> Rotation:
    return Rotation.from_quat([*turn[1:], turn[0]])


# ---- between readings


def test_a_position_is_interpolated_to_the_frame_and_says_its_age() -> None:
    told: list[str] = []
    position, attitude = flown(told).at(TAKE_OFF + 7 * S + S // 4)
    assert position is not None
    assert (position.lat, position.lon, position.alt) == (46.000725, 7.0, 507.25)
    assert (position.age_s, attitude, told) == (0.25, None, [])


def test_a_way_over_180_degrees_is_the_short_one() -> None:
    made = track([])
    made.add_position(0, -17.0, 179.9999)
    made.add_position(S, -17.0, -179.9997)
    position, _ = made.at(S // 2)
    assert position is not None
    assert position.lon == pytest.approx(-179.9999, abs=1e-8)


def test_turns_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        roll, pitch, yaw = rng.uniform((-180, -90, -180), (180, 90, 180))
        first, second = quaternion_of(roll, pitch, yaw), quaternion_of(*rng.uniform(-90, 90, 3))
        theirs = Rotation.from_euler("ZYX", [yaw, pitch, roll], degrees=True)
        assert (as_scipy(first) * theirs.inv()).magnitude() < 1e-9
        assert angles_of(first) == pytest.approx((roll, pitch, yaw), abs=1e-9)
        product = as_scipy(first) * as_scipy(second)
        assert (as_scipy(multiply(first, second)) * product.inv()).magnitude() < 1e-9
        way = Slerp([0, 1], Rotation.concatenate([as_scipy(first), as_scipy(second)]))
        assert (as_scipy(slerp(first, second, 0.3)) * way(0.3).inv()).magnitude() < 1e-7


@pytest.mark.parametrize("pitch", [90.0, -90.0])
def test_straight_up_and_down_keeps_the_turn(pitch: float) -> None:
    turn = quaternion_of(25, pitch, 70)
    roll, found, yaw = angles_of(turn)
    assert (roll, found) == (0, pitch)
    assert (as_scipy(quaternion_of(roll, found, yaw)) * as_scipy(turn).inv()).magnitude() < 1e-6


def test_an_attitude_turns_the_shortest_way_and_the_cameras_goes_first() -> None:
    made = track([])
    for time, yaw in ((0, 170.0), (S, -170.0)):
        made.add_attitude(time, 0, 0, yaw)
    _, vehicle = made.at(S // 2)
    assert vehicle is not None
    assert (abs(vehicle.yaw), vehicle.pitch, vehicle.age_s) == (180, 0, 0.5)
    assert vehicle.of == "vehicle"
    made.add_attitude(0, 0, -90, 45, of="camera")
    _, camera = made.at(S // 2)
    assert camera is not None
    assert (camera.pitch, camera.yaw, camera.of) == (-90, 45, "camera")


@pytest.mark.parametrize(("late", "known"), [(REACH_S, True), (REACH_S + 0.001, False)])
@pytest.mark.parametrize("end", [-1, 1])
def test_nothing_is_said_beyond_the_reach_of_a_reading(late: float, known: bool, end: int) -> None:
    told: list[str] = []
    made = flown(told, seconds=10)
    made.add_attitude(TAKE_OFF, 1, 2, 3)
    made.add_attitude(TAKE_OFF + 9 * S, 1, 2, 3)
    at = TAKE_OFF - late * S if end < 0 else TAKE_OFF + (9 + late) * S
    position, attitude = made.at(int(at))
    if known:  # held, and not extrapolated
        assert position is not None
        assert attitude is not None
        assert position.lat == (46.0 if end < 0 else 46.0009)
        assert position.age_s == attitude.age_s == REACH_S
        assert not told
    else:
        assert position is attitude is None
        made.at(int(at))
        (line,) = told
        assert line.startswith("flight: no position within 2 s of some frames")


# ---- what is not believed


def far(second: int) -> tuple[float, float]:
    return 46.5 + 1e-4 * second, 7.0


@pytest.mark.faults
@pytest.mark.parametrize(
    ("changed", "null", "line"),
    [
        ({"t20": (math.nan, math.nan)}, {20}, "a position is no number"),
        ({"t20": (0.0, 0.0)}, {20}, "0° 0°, which means unknown"),
        ({"t20": (460.0, 7.0)}, {20}, "no place on Earth"),
        ({"t20": far(20), "t21": far(21)}, {20, 21}, "the position jumps, faster than 200 m/s"),
        (
            {f"t{n}": far(n) for n in range(20, 60)},
            {20, 21, 22, 23, 24},
            "the position jumps, faster than 200 m/s",
        ),
        ({f"t{n}": (46.002, 7.0) for n in range(20, 60)}, set(), None),  # it climbs, so it lives
    ],
    ids=["nan", "0/0", "460", "there and back", "for good", "hovers"],
)
def test_a_bad_position_is_null_and_said_once(
    changed: dict[str, tuple[float, float]], null: set[int], line: str | None
) -> None:
    told: list[str] = []
    made = flown(told, **changed)
    found = {n for n in range(60) if made.at(TAKE_OFF + n * S)[0] is None}
    assert found == null
    assert len(told) == (line is not None)
    assert line is None or line in told[0]


@pytest.mark.faults
def test_a_frozen_receiver_is_null_from_when_it_froze() -> None:
    told: list[str] = []
    made = track(told)
    for second in range(60):
        stands = 20 <= second < 45
        moved = 20 if stands else second
        made.add_position(TAKE_OFF + second * S, 46 + 1e-4 * moved, 7.0, 500.0)
    null = {n for n in range(60) if made.at(TAKE_OFF + n * S)[0] is None}
    assert null == {*range(21, 45)}
    (line,) = told
    assert "the GPS is frozen" in line


def test_a_receiver_that_says_so_has_no_fix() -> None:
    told: list[str] = []
    made = track(told)
    made.add_position(0, 46.0, 7.0, has_fix=False)
    assert made.at(0) == (None, None)
    assert told == ["flight: the receiver has no fix; such positions are null"]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("hours", "said"), [(2, "2 h earlier"), (-7, "7 h later"), (0.4, None), (20, None)]
)
def test_a_clock_in_another_time_zone_is_told_by_whole_hours(
    hours: float, said: str | None
) -> None:
    told: list[str] = []
    made = flown(told, seconds=600)
    assert made.at(int(TAKE_OFF + (300 + 3600 * hours) * S)) == (None, None)
    (line,) = told
    assert ("time zone" in line) is (said is not None)
    assert said is None or f"exactly {said}" in line


def test_an_attitude_that_is_no_number_is_left_out() -> None:
    told: list[str] = []
    made = track(told)
    made.add_attitude(0, math.nan, 0, 0)
    assert made.at(0) == (None, None)
    assert told == ["flight: an attitude is no number; such attitudes are null"]


def test_a_live_track_remembers_minutes_only() -> None:
    made = Track("link", report=lambda _: None, live=True)
    for tenth in range(10_000):
        made.add_position(tenth * S // 10, 46 + 1e-6 * tenth, 7.0)
        made.add_attitude(tenth * S // 10, 0, 0, 0)
    assert 1200 <= len(made) <= 2402
    assert made.at(999 * S)[0] is not None


def test_what_does_not_come_later_is_left_out() -> None:
    made = flown([], seconds=3)
    made.add_position(TAKE_OFF, 10.0, 10.0)
    assert len(made) == 3
