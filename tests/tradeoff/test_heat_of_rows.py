"""The heat that latency is sampled in: engines that need no file, on boards that are files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.progress import silent
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.profiling.steadiness import HeatLog
from segclip_deploy.tradeoff import measure_points
from segclip_deploy.tradeoff.heat_notes import heat_notes
from segclip_deploy.tradeoff.measure_points import measure_energy, measure_latency
from segclip_deploy.tradeoff.state import Latency, load_energy
from tests.support.boards import ORIN_NANO, write_tree
from tests.support.fakes import FakeBackend, random_frame
from tests.tradeoff.test_recommend import row

FRAMES = [random_frame(64, 64, seed) for seed in range(3)]


class Board:
    """An Orin whose hottest sensor rises with every inference, which takes five seconds of its own clock."""

    def __init__(self, root: Path, rise: int, fails_after: int | None = None) -> None:
        self.root, self.rise, self.fails_after = write_tree(root, ORIN_NANO), rise, fails_after
        self.inferences, self.closed = 0, 0

    @property
    def celsius(self) -> float:
        return 64.031 + self.inferences * self.rise / 1e3

    def log(self, root: Path) -> HeatLog:
        return HeatLog(root, clock=lambda: 5.0 * self.inferences)

    def open(self, *_: object) -> Segmenter:
        board = self

        class Warming(FakeBackend):
            def infer(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
                board.inferences += 1
                board.put("thermal/thermal_zone8/temp", round(1e3 * board.celsius))
                if board.inferences == board.fails_after:
                    raise KeyboardInterrupt
                return super().infer(arrays)

            def close(self) -> None:
                board.closed += 1

        return Segmenter(Warming(64, 64), InputSpec(64, 64), load_vocabulary("dubai"))

    def put(self, name: str, value: int) -> None:
        (self.root / "sys/class" / name).write_text(f"{value}\n")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep waits for heat, but by the board's clock."""
    monkeypatch.setattr(measure_points, "WARM_UP_SECONDS", 600.0)


def latency_of(board: Board, folder: Path, samples: int = 6, **more: Any) -> Latency:
    points: Any = {folder / "a.json": (None, None)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_points, "_open", board.open)
        patch.setattr(measure_points, "HeatLog", board.log)
        return measure_latency(
            points, FRAMES, samples, more.get("report", silent), root=board.root
        )[folder / "a.json"]


def test_sampling_begins_when_the_temperature_is_steady(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", rise=0)
    found = latency_of(board, tmp_path)
    assert len(found.frame_ms) == 6
    assert board.inferences == 60 / 5 + 6  # a minute of warm-up tells that it is steady
    assert found.heat is not None
    assert found.heat.steady is True
    assert found.heat.before.power_mode == "MAXN_SUPER"
    assert found.heat.before.hottest == 64.031
    assert found.heat.causes == ()


def test_what_stays_unsteady_is_measured_and_marked_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_points, "WARM_UP_SECONDS", 150.0)
    board, said = Board(tmp_path / "board", rise=100), []
    found = latency_of(
        board, tmp_path, report=lambda line, done, total: said.append(line) if not total else None
    )
    assert found.heat is not None
    assert found.heat.steady is False
    assert found.heat.after.hottest == pytest.approx(board.celsius)
    assert found.heat.before.hottest == pytest.approx(board.celsius - 6 * 0.1)
    assert board.inferences == 150 / 5 + 6
    assert said == ["not steady after 150 s of warm-up: +1.2 K in 60 s; the rows are marked"]


def test_without_a_sensor_only_the_least_warms_up(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", rise=0)
    for temperature in board.root.glob("sys/class/thermal/thermal_zone*/temp"):
        temperature.unlink()
    board.put = lambda *_: None  # type: ignore[method-assign]
    found = latency_of(board, tmp_path)
    assert board.inferences == 6 + measure_points.WARM_UP_ROUNDS * 3
    assert found.heat is not None
    assert found.heat.steady is None


def test_a_killed_measurement_goes_on_with_the_heat_of_both_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_points, "WARM_UP_SECONDS", 0.0)
    first = Board(tmp_path / "first", rise=0, fails_after=6 + 3 + 2)  # in the second round
    with pytest.raises(KeyboardInterrupt):
        latency_of(first, tmp_path)
    second = Board(tmp_path / "second", rise=100)
    second.put("hwmon/hwmon3/oc3_event_cnt", 50)
    once = measure_points._once

    def throttled(*arguments: Any) -> Any:
        second.put("hwmon/hwmon3/oc3_event_cnt", 50 + second.inferences)
        return once(*arguments)

    monkeypatch.setattr(measure_points, "_once", throttled)
    found = latency_of(second, tmp_path)
    assert len(found.frame_ms) == 6
    assert found.heat is not None
    assert found.heat.before.throttle_events["oc3"] == 37
    # The second part began after two rounds of warm-up with the counter of the last of them.
    assert found.heat.throttle_events["oc3"] == 3
    assert found.heat.after.hottest == pytest.approx(second.celsius)


def test_what_happens_in_the_last_second_counts(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", rise=0)
    counter = "hwmon/hwmon3/oc3_event_cnt"
    board.log = lambda root: HeatLog(root, clock=lambda: 0.0)  # type: ignore[method-assign]
    opened = board.open

    def throttled(*arguments: object) -> Segmenter:
        segmenter = opened(*arguments)
        infer = segmenter.backend.infer

        def counted(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
            board.put(counter, 37 + board.inferences)
            return infer(arrays)

        segmenter.backend.infer = counted  # type: ignore[method-assign]
        return segmenter

    board.open = throttled  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_points, "WARM_UP_SECONDS", 0.0)
        found = latency_of(board, tmp_path)
    assert found.heat is not None
    assert found.heat.throttle_events["oc3"] == 6


def test_idle_power_is_metered_once_and_while_no_engine_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("_ENERGY_SECONDS", 0.1), ("_IDLE_SECONDS", 0.1), ("_IDLE_PAUSE", 0.0)):
        monkeypatch.setattr(measure_points, name, seconds)
    board = Board(tmp_path / "board", rise=0)
    rail = board.root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/curr1_input"
    opened = []

    def opening(*arguments: object) -> Segmenter:
        opened.append(board.closed)
        rail.write_text("4000\n")
        return board.open(*arguments)

    monkeypatch.setattr(measure_points, "_open", opening)
    rail.write_text("1000\n")
    points: Any = {tmp_path / f"{name}.json": (None, None) for name in "ab"}
    found = measure_energy(points, FRAMES, silent, root=board.root)
    assert opened == [0, 1]  # one after another
    for path, energy in found.items():
        assert energy == load_energy(path)
        assert energy.idle is not None
        assert (energy.idle.watts, energy.idle.seconds) == (pytest.approx(4.984), 0.1)
        assert energy.joules is not None
        assert energy.above_idle == pytest.approx(energy.joules * 3 / 4)
    assert measure_energy(points, FRAMES, silent, root=board.root) == found
    assert opened == [0, 1]
    nothing = measure_energy(points, FRAMES, silent, root=tmp_path / "nothing")
    assert [(one.joules, one.above_idle) for one in nothing.values()] == [(None, None)] * 2


def test_notes_name_the_rows_that_are_not_steady_and_what_took_clocks_away() -> None:
    board_span = HeatLog(Path("nowhere")).span()
    unsteady = replace(board_span, steady=False)
    slowed = replace(board_span, throttle_events={"oc1": 0, "oc3": 4}, throttled=("gpu",))
    rows = [
        row("a", 1, 0.7, heat=board_span),
        row("b", 1, 0.7, heat=unsteady),
        row("c", 1, 0.7, heat=slowed),
        row("d", 1, 0.7),
    ]
    assert heat_notes(rows) == (
        "the temperature was not steady: b",
        "clocks were taken away (oc3): c",
        "clocks were taken away (gpu): c",
    )
    assert heat_notes(rows[:1]) == ()
