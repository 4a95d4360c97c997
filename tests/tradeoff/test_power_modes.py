"""``benchmark --power-modes``: on a board that is files, with a command of the test's own."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from segclip_deploy import api
from segclip_deploy.cli import main
from segclip_deploy.errors import BadInput, GateFailed
from segclip_deploy.progress import silent
from segclip_deploy.runtime.profiling.mode_switch import ModeSwitch, plan_mode_switch
from segclip_deploy.runtime.targets import device
from segclip_deploy.runtime.targets.device import list_power_modes, power_mode
from segclip_deploy.tradeoff import sweep_modes, sweep_request
from segclip_deploy.tradeoff.results import RESULTS
from segclip_deploy.tradeoff.sweep import Sweep
from segclip_deploy.tradeoff.sweep_grid import SweepGrid, points
from segclip_deploy.tradeoff.sweep_modes import sweep_in_modes
from tests.support.boards import ORIN_NANO, write_command, write_switch, write_tree
from tests.support.helpers import call
from tests.tradeoff.test_benchmark import make_dataset

GRID = SweepGrid(bundles=(Path("b"),), targets=("onnxruntime",), precisions=("fp32",))


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """An Orin in MAXN_SUPER."""
    return write_tree(tmp_path / "board", ORIN_NANO)


@pytest.fixture
def here(board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine is that board: its list of modes, and its nvpmodel."""
    write_command(
        tmp_path / "nvpmodel",
        f"case $(cat {board}/var/lib/nvpmodel/status) in\n"
        "*0) echo 'NV Power Mode: 15W';; *1) echo 'NV Power Mode: 25W';;\n"
        "*2) echo 'NV Power Mode: MAXN_SUPER';; esac",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for module in (sweep_request, device):
        monkeypatch.setattr(module, "list_power_modes", lambda *_: list_power_modes(board))
    monkeypatch.setattr(
        "segclip_deploy.runtime.profiling.mode_switch.list_power_modes",
        lambda *_: list_power_modes(board),
    )
    return board


def measured(
    switch: ModeSwitch, modes: Any, monkeypatch: pytest.MonkeyPatch, run_sweep: Any
) -> Sweep:
    monkeypatch.setattr(sweep_modes, "run_sweep", run_sweep)
    cache: Any = None
    return sweep_in_modes(
        GRID, cache, switch, modes, split="val", samples=10, frames=(), report=silent
    )


def test_the_grid_is_measured_in_each_mode_and_the_found_one_comes_back(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def run_sweep(grid: SweepGrid, *_: Any, **__: Any) -> Sweep:
        seen.append((grid.power_mode, power_mode(board)))
        name = points(grid)[0].name
        return Sweep(rows=(), failures=(), engines={name: Path(name)}, accuracies={})

    switch = plan_mode_switch(write_switch(tmp_path, board), board)
    found = measured(switch, switch.modes[:2], monkeypatch, run_sweep)
    assert seen == [("15W", "15W"), ("25W", "25W")]
    assert [*found.engines] == ["b · ort · fp32 · 15W", "b · ort · fp32 · 25W"]
    assert power_mode(board) == "MAXN_SUPER"
    # All are tried first; then each is measured, and the found one comes back.
    assert (tmp_path / "log").read_text().split() == ["0", "1", "2", "0", "1", "2"]


@pytest.mark.faults
def test_a_mode_that_needs_a_reboot_is_told_before_anything_is_measured(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reboots = "[ $1 = 3 ] && { echo NVPM WARN: Reboot required; exit 0; }"
    switch = plan_mode_switch(write_switch(tmp_path, board, before=reboots), board)
    with pytest.raises(BadInput, match="power mode 7W needs a reboot"):
        measured(switch, (switch.modes[0], switch.modes[3]), monkeypatch, None)
    assert power_mode(board) == "MAXN_SUPER"
    back = "[ $1 = 2 ] && { echo NVPM WARN: Reboot required; exit 0; }"
    switch = plan_mode_switch(write_switch(tmp_path, board, before=back), board)
    with pytest.raises(BadInput, match="power mode MAXN_SUPER needs a reboot"):
        measured(switch, switch.modes[:1], monkeypatch, None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, GateFailed("x"), OSError("disk full")])
@pytest.mark.faults
def test_an_error_while_measuring_leaves_the_found_mode(
    error: BaseException, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_sweep(*_: Any, **__: Any) -> Sweep:
        assert power_mode(board) == "15W"
        raise error

    switch = plan_mode_switch(write_switch(tmp_path, board), board)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        measured(switch, switch.modes[:1], monkeypatch, run_sweep)
    assert power_mode(board) == "MAXN_SUPER"


@pytest.mark.long
def test_the_command_measures_two_modes_and_says_so(
    here: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    data, out = make_dataset(tmp_path / "data", 64, 96), tmp_path / "report"
    asked = ["benchmark", tiny_bundle, "--eval", data, "-o", out, "--samples", 10]
    asked += ["--target", "onnxruntime", "--precision", "fp32", "--threads", 1]
    asked += ["--power-modes", "15W, 25W"]
    counted = json.loads(call(*asked, "--dry-run", "--json").stdout)
    assert (counted["points"], counted["engines_to_make"]) == (2, 2)
    refused = call(*asked)
    assert refused.exit_code == 2
    assert refused.stderr == (
        "error: --power-modes needs the command that switches them; "
        "--power-command 'sudo nvpmodel -m {id}'\n"
    )
    assert not out.exists()

    switch = write_switch(tmp_path, here)
    result = call(*asked, "--power-command", switch, "--ambient", 21.5)
    assert result.exit_code == 0, result.stderr
    assert f"power modes are switched by {switch}, and back at the end" in result.stderr
    assert "in power mode 15W" in result.stderr
    results = RESULTS.read(out / "results.json", fix="")
    assert [row.power_mode for row in results.rows] == ["15W", "25W"]
    assert [row.reference for row in results.rows] == [row.name for row in results.rows]
    for row in results.rows:
        assert row.heat is not None
        assert row.heat.before.power_mode == row.heat.after.power_mode == row.power_mode
    assert len({*results.engines.values()}) == 2  # each was built in its mode
    assert results.conditions.device.power_mode == "MAXN_SUPER"
    assert results.conditions.power_modes == ("15W", "25W")
    assert (results.conditions.points, results.conditions.ambient) == (2, 21.5)
    page = (out / "report.html").read_text()
    assert "<td>15W</td>" in page
    assert '<td>power modes</td><td style="text-align:left">15W, 25W</td>' in page
    head, *lines = (out / "results.csv").read_text().splitlines()
    mode = head.split(",").index("power_mode")
    assert [line.split(",")[mode] for line in lines] == ["15W", "25W"]
    assert power_mode() == "MAXN_SUPER"


def test_modes_that_are_none_are_refused_before_anything_is_made(
    here: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    data, out = make_dataset(tmp_path / "data", 64, 96), tmp_path / "report"

    def said(*more: object, code: int = 1) -> str:
        asked = ("benchmark", tiny_bundle, "--eval", data, "-o", out, "--precision", "fp32")
        result = call(*asked, *more)
        assert result.exit_code == code, result.output
        assert not out.exists()
        return result.stderr

    assert "take some of 15W, 25W, MAXN_SUPER, 7W" in said("--power-modes", "15W,MAXN")
    assert "no list like 15W,25W" in said("--power-modes", "15W,", code=2)
    assert "without --power-modes" in said("--power-command", "x {id}", code=2)
    assert "names no mode" in said("--power-modes", "15W", "--power-command", "x", code=2)
    ahead = ("benchmark", tiny_bundle, "--eval", data, "--prepare", out, "--precision", "fp32")
    result = call(*ahead, "--power-modes", "15W")
    assert (result.exit_code, out.exists()) == (2, False)
    assert "--power-modes is for the board" in result.stderr


@pytest.mark.parametrize(("answer", "command"), [("y\n", api.POWER_COMMAND), ("n\n", None)])
def test_a_terminal_is_asked_whether_modes_may_be_switched(
    answer: str, command: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def stop(**options: Any) -> None:
        given.update(options)
        raise BadInput("enough")

    module = import_module("segclip_deploy.cli.benchmark")  # not the command of that name
    monkeypatch.setattr(module, "_at_terminal", lambda: True)
    monkeypatch.setattr(api, "benchmark", stop, raising=False)
    asked = ["benchmark", "b", "--eval", "d", "-o", "r", "--power-modes", "15W"]
    result = CliRunner().invoke(main, asked, input=answer)
    assert "Switch the power mode by sudo nvpmodel -m {id}, and back at the end?" in result.stderr
    assert (given["power_modes"], given["power_command"]) == (("15W",), command)


def test_without_modes_all_is_keyed_by_the_mode_that_is_found(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that goes on in another mode takes no sample of the first."""
    (grid,) = sweep_modes.grids_of_modes(GRID, ())
    assert grid.power_mode == "MAXN_SUPER"
    monkeypatch.setattr(sweep_modes, "power_mode", lambda: None)  # no Jetson
    assert sweep_modes.grids_of_modes(GRID, ()) == (GRID,)
    assert points(GRID)[0].name == "b · ort · fp32"
