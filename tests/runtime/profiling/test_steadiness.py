"""When a temperature is steady: on sensors whose course is known, with a clock that does not wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segclip_deploy.artifacts.records import replace
from segclip_deploy.runtime.profiling import steadiness
from segclip_deploy.runtime.profiling.heat import read_heat
from segclip_deploy.runtime.profiling.steadiness import HeatLog
from tests.support.boards import ORIN_NANO, write_tree


class Machine:
    """An Orin whose hottest sensor follows a course, and a clock that is moved by hand."""

    def __init__(self, root: Path, course: Callable[[float], float]) -> None:
        self.root, self.course, self.now = write_tree(root, ORIN_NANO), course, 0.0
        self.set()

    def set(self) -> None:
        for zone in (0, 8):
            celsius = self.course(self.now) - zone
            self.put(f"sys/class/thermal/thermal_zone{zone}/temp", round(1000 * celsius))

    def put(self, name: str, value: int) -> None:
        (self.root / name).write_text(f"{value}\n")

    def log(self) -> HeatLog:
        return HeatLog(self.root, clock=lambda: self.now)

    def run(self, log: HeatLog, seconds: float, apart: float = 5.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += apart
            self.set()
            log.note()


NOTHING = read_heat(Path("nothing"))


def followed(course: Callable[[float], float], seconds: Sequence[float]) -> HeatLog:
    """The log of a sensor that was noted at these seconds."""
    now = 0.0
    with pytest.MonkeyPatch.context() as patch:
        reading = lambda _: replace(NOTHING, celsius={"a": course(now)})  # noqa: E731
        patch.setattr(steadiness, "read_heat", reading)
        log = HeatLog(clock=lambda: now)
        for now in seconds:  # noqa: B007
            log.note()
    return log


@pytest.mark.parametrize("apart", [0.5, 7, 25, 90])
def test_a_temperature_that_settles_is_steady_when_it_has_settled(apart: float) -> None:
    def settling(at: float) -> float:
        return 70 - 30 * 0.99**at

    assert followed(settling, []).steady() is False  # nobody knows yet
    assert followed(settling, np.arange(0, 95, apart)).steady() is False
    late = followed(settling, np.arange(0, 800, apart))
    assert late.steady() is True
    assert 0 <= (late.change() or 0) < 0.1


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.floats(-3, 3), st.floats(1, 30), st.floats(0, 0.3))
def test_the_change_is_that_of_a_minute(kelvin: float, apart: float, noise: float) -> None:
    signs = iter([1, -1] * 1000)
    log = followed(lambda at: 50 + kelvin * at / 60 + noise * next(signs), np.arange(0, 300, apart))
    change = log.change()
    assert change is not None
    assert abs(change - kelvin) <= 3 * noise + 1e-6
    if abs(abs(kelvin) - 1) > 3 * noise + 1e-6:
        assert log.steady() == (abs(kelvin) < 1)


def test_without_a_sensor_nobody_can_tell(tmp_path: Path) -> None:
    log = HeatLog(tmp_path)
    assert (log.change(), log.steady(), log.span().steady) == (None, None, None)
    assert log.span().causes is None


def test_a_span_has_what_happened_between_its_ends(tmp_path: Path) -> None:
    machine = Machine(tmp_path, lambda at: 60.0)
    log = machine.log()
    counter, alert = "sys/class/hwmon/hwmon3/oc3_event_cnt", "sys/class/thermal/cooling_device2"
    machine.put(f"{alert}/cur_state", 1)
    machine.run(log, 70)  # the warm-up throttles
    machine.put(f"{alert}/cur_state", 0)
    machine.put(counter, 40)
    machine.run(log, 5)
    log.begin()
    assert (log.span().causes, log.span().steady) == ((), True)
    machine.put(counter, 44)
    machine.put(f"{alert}/cur_state", 1)
    machine.run(log, 5)
    machine.put(f"{alert}/cur_state", 0)
    machine.run(log, 5)
    found = log.span()
    assert (found.before.throttle_events["oc3"], found.after.throttle_events["oc3"]) == (40, 44)
    assert found.throttle_events == {"oc1": 0, "oc2": 0, "oc3": 4}
    assert found.throttled == ("gpu-throttle-alert",)
    assert found.after.throttling == ()


def test_a_measurement_that_begins_or_ends_unsteady_is_marked(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "a", lambda at: 40 + min(at, 100) / 10)
    log = machine.log()
    machine.run(log, 100)
    log.begin()
    machine.run(log, 200)
    assert (log.steady(), log.span().steady) == (True, False)

    machine = Machine(tmp_path / "b", lambda at: 50 + max(at - 100, 0) / 10)
    log = machine.log()
    machine.run(log, 100)
    log.begin()
    assert log.span().steady is True
    machine.run(log, 60)
    assert log.span().steady is False


def test_readings_are_a_second_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, taken = Machine(tmp_path, lambda at: 50.0), []
    monkeypatch.setattr(steadiness, "read_heat", lambda root: (taken.append(1), read_heat(root))[1])
    log = machine.log()
    machine.run(log, 10, apart=0.25)
    assert len(taken) == 11
    for edge in (log.begin, log.end):  # but at the edges of a measurement
        edge()
    assert len(taken) == 13
