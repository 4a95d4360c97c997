"""Power modes are switched by the user's command, and the mode that was found comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segclip_deploy.errors import BadInput, UsageError
from segclip_deploy.runtime.profiling.mode_switch import (
    POWER_COMMAND,
    ModeSwitch,
    choose_power_modes,
    plan_mode_switch,
    restored_power_mode,
)
from segclip_deploy.runtime.targets.device import PowerMode, list_power_modes, power_mode
from tests.support.boards import ORIN_NANO, write_command, write_switch, write_tree

ROOT = Path(__file__).parents[3]


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """An Orin in MAXN_SUPER."""
    return write_tree(tmp_path / "board", ORIN_NANO)


@pytest.fixture
def switch(board: Path, tmp_path: Path) -> ModeSwitch:
    return plan_mode_switch(write_switch(tmp_path, board), board)


def modes_of(switch: ModeSwitch, *names: str) -> tuple[PowerMode, ...]:
    return choose_power_modes(names, switch.modes)


def test_a_mode_is_switched_by_the_command_and_only_if_it_is_another(
    switch: ModeSwitch, board: Path, tmp_path: Path
) -> None:
    for mode in modes_of(switch, "MAXN_SUPER", "15W", "15W", "7W"):
        switch.switch(mode)
        assert power_mode(board) == mode.name
    assert (tmp_path / "log").read_text().split() == ["0", "3"]


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 3), max_size=4), st.sampled_from([None, KeyboardInterrupt, OSError]))
def test_the_mode_that_was_found_comes_back_whatever_happens(
    path: list[int], end: type[BaseException] | None
) -> None:
    modes = [PowerMode(id=number, name=f"{number}W") for number in range(4)]
    now = modes[1]

    class Board(ModeSwitch):
        def switch(self, mode: PowerMode) -> None:
            nonlocal now
            now = mode

    board, said = Board("x {id}", modes, now, lambda: now.name), []

    def visit() -> None:
        with restored_power_mode(board, said.append):
            for number in path:
                board.switch(modes[number])
            if end:
                raise end

    if end:
        with pytest.raises(end):
            visit()
    else:
        visit()
    assert (now, said) == (modes[1], [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.faults
def test_a_signal_ends_the_work_and_the_mode_comes_back(
    number: signal.Signals, board: Path, tmp_path: Path
) -> None:
    """A process of its own, as ``kill`` and Ctrl-C meet it, twice."""
    slow = write_switch(tmp_path, board, before="[ $1 = 2 ] && sleep 0.5")
    code = f"""
import signal
import time
from pathlib import Path
from segclip_deploy.runtime.profiling.mode_switch import plan_mode_switch, restored_power_mode
signal.signal(signal.SIGINT, signal.default_int_handler)  # `make test &` ignores it
switch = plan_mode_switch({slow!r}, Path({str(board)!r}))
with restored_power_mode(switch, print):
    switch.switch(switch.modes[0])
    print("switched", flush=True)
    time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"switched\n"
    assert power_mode(board) == "15W"
    os.killpg(process.pid, number)
    time.sleep(0.2)
    os.killpg(process.pid, number)  # while the mode is being put back
    _, told = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in told
    assert (tmp_path / "log").read_text().split() == ["0", "2"]
    assert power_mode(board) == "MAXN_SUPER"


def test_after_the_block_signals_are_as_before(switch: ModeSwitch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with restored_power_mode(switch, print):
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("ends_well", [True, False])
@pytest.mark.faults
def test_a_mode_that_does_not_come_back_is_told_with_the_command_that_does(
    ends_well: bool, board: Path, tmp_path: Path
) -> None:
    stubborn = write_switch(
        tmp_path, board, before="[ $1 = 2 ] && { echo no such luck >&2; exit 7; }"
    )
    switch, said = plan_mode_switch(stubborn, board), []

    def visit() -> None:
        with restored_power_mode(switch, said.append):
            switch.switch(modes_of(switch, "7W")[0])
            if not ends_well:
                raise ZeroDivisionError

    with pytest.raises(BadInput if ends_well else ZeroDivisionError) as caught:
        visit()
    script = tmp_path / "switch"
    assert said == [
        (
            f"the power mode was not restored ({script} 2 failed with exit code 7: no such luck); "
            f"{script} 2 restores MAXN_SUPER"
        )
    ]
    if ends_well:
        assert str(caught.value) == (
            f"--power-command: {script} 2 failed with exit code 7: no such luck; "
            "try it by hand, or give another that switches to MAXN_SUPER"
        )


@contextmanager
def said_yes() -> Iterator[None]:
    """Whoever reads our input reads ``yes``."""
    reader, writer = os.pipe()
    os.write(writer, b"yes\n")
    before = os.dup(0)
    os.dup2(reader, 0)
    try:
        yield
    finally:
        os.dup2(before, 0)
        for one in (reader, writer, before):
            os.close(one)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("exit 0", "{command} left the board in MAXN_SUPER"),
        ("echo sudo: a password is required; exit 1", "{command} failed with exit code 1: sudo: a"),
        (
            (
                "echo 'NVPM WARN: Reboot required for changing to this power mode: 0'\n"
                "echo 'NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:'\n"
                "read answer && touch rebooted\n"
                "echo 'NVPM ERROR: optMask is 1, no request for power mode'; exit 0"
            ),
            "power mode 15W needs a reboot; run {command}, let it reboot, and measure this mode alone",
        ),
    ],
)
@pytest.mark.faults
def test_a_command_that_does_not_switch_is_told(
    body: str, told: str, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    switch = plan_mode_switch(write_command(tmp_path / "bad", body), board)
    with said_yes(), pytest.raises(BadInput) as caught:
        switch.switch(modes_of(switch, "15W")[0])
    assert told.format(command=f"{tmp_path / 'bad'} 0") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "rebooted").exists()
    assert power_mode(board) == "MAXN_SUPER"


@pytest.mark.faults
def test_a_command_that_is_not_there_is_told(board: Path) -> None:
    switch = plan_mode_switch("/no/such/command {id}", board)
    with pytest.raises(BadInput, match=r"/no/such/command 0 cannot be run \(No such file"):
        switch.switch(modes_of(switch, "15W")[0])


@pytest.mark.parametrize("template", ["nvpmodel -m 2", "{id}", "", "nvpmodel '{id}"])
def test_a_command_that_names_no_mode_is_refused(template: str, board: Path) -> None:
    with pytest.raises(UsageError, match=r"^--power-command: "):
        plan_mode_switch(template, board)


def test_without_a_command_the_usual_one_is_named(board: Path) -> None:
    with pytest.raises(UsageError) as caught:
        plan_mode_switch(None, board)
    assert str(caught.value) == (
        "--power-modes needs the command that switches them; "
        "--power-command 'sudo nvpmodel -m {id}'"
    )
    usual = plan_mode_switch(POWER_COMMAND, board)
    assert [usual.command(mode) for mode in usual.modes[:2]] == [
        "sudo nvpmodel -m 0",
        "sudo nvpmodel -m 1",
    ]
    named = plan_mode_switch("set-mode '{name} now'", board)
    assert named.command(named.found) == "set-mode 'MAXN_SUPER now'"


@pytest.mark.faults
def test_a_mode_that_could_not_be_put_back_is_never_left(board: Path) -> None:
    (board / "var/lib/nvpmodel/status").unlink()
    with pytest.raises(BadInput, match="in power mode unknown, which could not be put back"):
        plan_mode_switch(POWER_COMMAND, board)


def test_modes_are_chosen_from_the_board_s_list(board: Path) -> None:
    modes = list_power_modes(board)
    assert [mode.id for mode in choose_power_modes(["25W", "7W", "25W"], modes)] == [1, 3]
    with pytest.raises(BadInput) as caught:
        choose_power_modes(["15W", "MAXN"], modes)
    assert str(caught.value) == (
        "--power-modes: 'MAXN' is no power mode of this board; take some of 15W, 25W, MAXN_SUPER, 7W"
    )
    agx = (PowerMode(id=0, name="MAXN"), PowerMode(id=2, name="MODE_30W"))
    assert choose_power_modes(["30W", "MODE_30W"], agx) == agx[1:]
    with pytest.raises(BadInput, match="this machine has no power modes"):
        choose_power_modes(["15W"], ())


def test_what_nvpmodel_says_comes_before_its_files(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segclip_deploy.runtime.targets import device

    monkeypatch.setattr(device, "_ROOT", board)
    assert power_mode(board) == "MAXN_SUPER"  # no nvpmodel here
    write_command(tmp_path / "nvpmodel", "echo 'NV Power Mode: 25W'; echo 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert power_mode(board) == "25W"
