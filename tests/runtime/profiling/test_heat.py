"""Degrees, clocks, fans and throttling, as the files of boards tell them."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from segclip_deploy.artifacts.records import replace
from segclip_deploy.runtime.profiling import heat
from segclip_deploy.runtime.profiling.heat import HeatReading, HeatSpan, read_heat
from segclip_deploy.runtime.profiling.nvml import find_card
from segclip_deploy.runtime.profiling.power import find_thermometer, find_wattmeter
from segclip_deploy.runtime.targets.device import find_jetson, list_power_modes, power_mode
from tests.support.boards import ORIN_NANO, THOR, X86, Tree, write_tree
from tests.support.records import any_of


def test_an_orin_tells_its_mode_its_watts_and_its_throttling(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ORIN_NANO)
    assert read_heat(root) == HeatReading(
        celsius={"cpu-thermal": 63.625, "tj-thermal": 64.031},  # the GPU sleeps
        cpu_mhz={"policy0": 1728, "policy4": 730},
        gpu_mhz=1020,
        memory_mhz=3199,
        fan_rpm=2140,
        fan_duty=0.502,
        power_mode="MAXN_SUPER",
        limit_watts=None,
        throttle_events={"oc1": 0, "oc2": 15, "oc3": 37},
        throttling=(),  # neither the fan nor a lower clock is an alert
    )
    assert [(mode.id, mode.name) for mode in list_power_modes(root)] == [
        (0, "15W"),
        (1, "25W"),
        (2, "MAXN_SUPER"),
        (3, "7W"),
    ]
    jetson, (_, watts) = find_jetson(root), find_wattmeter(root)
    assert jetson is not None
    assert jetson.l4t == "36.4.7"
    assert watts is not None
    assert watts() == pytest.approx(4.984 * 1.856)


def test_a_thor_tells_its_mode_its_watts_and_its_throttling(tmp_path: Path) -> None:
    root = write_tree(tmp_path, THOR)
    found = read_heat(root)
    assert (found.hottest, found.gpu_mhz, found.memory_mhz) == (108.9, 1386, None)
    assert (found.fan_rpm, found.fan_duty) == (5400, 0.38)
    assert found.throttle_events == {"oc1": 0, "oc2": 0, "oc3": 179}
    assert found.throttling == ("gpu-throttle-alert",)
    assert found.power_mode == power_mode(root) == "120W"
    assert [mode.name for mode in list_power_modes(root)] == ["MAXN", "120W", "90W", "70W"]
    name, watts = find_wattmeter(root)
    assert name == "INA238 VIN"
    assert watts is not None
    assert watts() == 40.125


def test_a_processor_tells_its_heat_and_counts_its_throttling(tmp_path: Path) -> None:
    found = read_heat(write_tree(tmp_path, X86))
    assert found.celsius == {
        "acpitz": 27.8,
        "acpitz (2)": 29.8,
        "x86_pkg_temp": 61.0,
        "Package id 0": 62.0,  # a disk is none of ours
    }
    assert found.cpu_mhz == {"policy0": 3400, "policy1": 800}
    assert found.fan_rpm == 2670
    assert found.throttle_events == {"core": 5, "package": 11}
    assert (found.throttling, found.power_mode, found.gpu_mhz) == (None, None, None)
    thermometer = find_thermometer(tmp_path)
    assert thermometer is not None
    assert thermometer() == found.hottest == 62.0


@pytest.mark.parametrize("tree", [ORIN_NANO, THOR, X86], ids=["orin", "thor", "x86"])
def test_what_cannot_be_read_is_none_and_never_a_guess(tree: Tree, tmp_path: Path) -> None:
    root = write_tree(tmp_path, dict.fromkeys(tree, "?\n"))
    assert read_heat(root) == read_heat(tmp_path / "nothing")
    assert read_heat(root) == HeatReading(
        celsius={},
        cpu_mhz={},
        gpu_mhz=None,
        memory_mhz=None,
        fan_rpm=None,
        fan_duty=None,
        power_mode=None,
        limit_watts=None,
        throttle_events={},
        throttling=None,
    )
    assert (read_heat(root).hottest, list_power_modes(root)) == (None, ())


def test_a_state_of_no_mode_that_is_listed_is_none(tmp_path: Path) -> None:
    write_tree(tmp_path, {**ORIN_NANO, "var/lib/nvpmodel/status": "pmode:0009 fmode:cool\n"})
    assert power_mode(tmp_path) is None


class Library:
    """NVIDIA's management library with one card of 700 W."""

    values = {  # noqa: RUF012
        "nvmlDeviceGetPowerUsage": 512_000,
        "nvmlDeviceGetEnforcedPowerLimit": 700_000,
        "nvmlDeviceGetTemperature": 64,
        "nvmlDeviceGetFanSpeed": 35,
        "nvmlDeviceGetCurrentClocksThrottleReasons": 0x1 | 0x4 | 0x40 | 0x200,
    }
    clocks = {0: 1980, 2: 2619}  # noqa: RUF012

    def __init__(self, *, cards: int = 1) -> None:
        self.cards = cards

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: object) -> int:  # noqa: N802
        return 0 if self.cards else 2

    def nvmlDeviceGetClockInfo(self, handle: object, kind: int, value: Any) -> int:  # noqa: N802
        value._obj.value = self.clocks[kind]
        return 0

    def __getattr__(self, name: str) -> Any:
        if name not in self.values:  # a driver older than the name
            raise AttributeError(name)

        def ask(handle: object, *more: Any) -> int:
            # The library writes so many bytes, whatever it is given.
            assert ctypes.sizeof(more[-1]._obj) == (8 if name.endswith("Reasons") else 4)
            more[-1]._obj.value = self.values[name]
            return 0

        return ask


def test_a_card_is_asked_through_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = find_card(Library())
    assert card is not None
    assert (card.watts(), card.limit_watts(), card.celsius()) == (512.0, 700.0, 64)
    assert (card.mhz("graphics"), card.mhz("memory"), card.fan_duty()) == (1980, 2619, 0.35)
    # Neither idling nor a bit that is not known takes clocks away.
    assert card.slowdowns() == ("power cap", "hardware thermal slowdown")
    assert find_card(Library(cards=0)) is None

    monkeypatch.setattr(heat, "find_card", lambda: card)
    monkeypatch.setattr(heat, "_ROOT", tmp_path)
    found = read_heat(write_tree(tmp_path, X86))
    assert (found.celsius["card"], found.hottest) == (64.0, 64.0)
    assert (found.gpu_mhz, found.memory_mhz, found.fan_duty) == (1980, 2619, 0.35)
    assert (found.limit_watts, found.throttling) == (700.0, card.slowdowns())


def test_what_a_card_does_not_support_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Library, "values", {})
    monkeypatch.setattr(Library, "nvmlDeviceGetClockInfo", lambda *_: 3)
    card = find_card(Library())
    assert card is not None
    assert card.watts() is card.limit_watts() is card.celsius() is card.fan_duty() is None
    assert card.mhz("graphics") is card.slowdowns() is None


# ---- spans


READING = read_heat(Path("nothing"))


def span(**fields: Any) -> HeatSpan:
    given: dict[str, Any] = {
        "before": READING,
        "after": READING,
        "steady": True,
        "throttle_events": {},
        "throttled": None,
    }
    return HeatSpan(**given | fields)


def test_two_spans_make_one() -> None:
    cold, warm, hot = (replace(READING, celsius={"a": degrees}) for degrees in (30.0, 60.0, 70.0))
    first = span(before=cold, after=warm, throttle_events={"oc3": 2}, throttled=("gpu",))
    later = span(before=warm, after=hot, throttle_events={"oc1": 0, "oc3": 5}, throttled=("cpu",))
    assert first.then(later) == span(
        before=cold, after=hot, throttle_events={"oc1": 0, "oc3": 7}, throttled=("cpu", "gpu")
    )
    assert first.then(later).causes == ("oc3", "cpu", "gpu")
    assert span().causes is None
    assert span(throttle_events={"oc1": 0}).causes == span(throttled=()).causes == ()


@settings(deadline=None, derandomize=True, max_examples=40)
@given(any_of(HeatSpan), any_of(HeatSpan))
def test_a_span_is_steady_where_both_are_and_throttled_where_one_is(
    one: HeatSpan, other: HeatSpan
) -> None:
    both = one.then(other)
    assert both.steady == (
        None if None in (one.steady, other.steady) else one.steady and other.steady
    )
    assert {*(both.causes or ())} == {*(one.causes or ()), *(other.causes or ())}
    assert (both.causes is None) == (one.causes is None and other.causes is None)
