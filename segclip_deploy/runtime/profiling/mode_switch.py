"""Switch a Jetson's power mode by the user's command, and put back the one that was found."""

from __future__ import annotations

import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from segclip_deploy.errors import BadInput, SegclipError, UsageError, command
from segclip_deploy.progress import Say
from segclip_deploy.runtime.targets.device import PowerMode, list_power_modes, power_mode

__all__ = [
    "POWER_COMMAND",
    "ModeSwitch",
    "choose_power_modes",
    "plan_mode_switch",
    "restored_power_mode",
]

POWER_COMMAND = "sudo nvpmodel -m {id}"
"""What switches the mode of a Jetson as it is delivered."""

_MOST_SECONDS = 360.0
"""A command may take: sudo itself waits five minutes for a password."""


class ModeSwitch:
    """Switches between the modes of this board.

    Args:
        template: the user's command, with ``{id}`` or ``{name}`` where the mode stands.
        modes: of the board.
        found: the mode at the start.
        current: tells the name of the mode that the board is in.
    """

    def __init__(
        self,
        template: str,
        modes: Sequence[PowerMode],
        found: PowerMode,
        current: Callable[[], str | None],
    ) -> None:
        self.template, self.modes, self.found = template, tuple(modes), found
        self._current = current

    def command(self, mode: PowerMode) -> str:
        """The command that switches to a mode, for a shell."""
        return command(*self._words(mode))

    def switch(self, mode: PowerMode) -> None:
        """Switch to a mode, unless the board is in it.

        The command gets no input, so a question whether to reboot is never answered.

        Raises:
            BadInput: the command fails, takes too long, asks for a reboot, or the board is in another mode
                after it.
        """
        if self._is(mode):
            return
        words = self._words(mode)
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_MOST_SECONDS,
                check=False,
            )
        except OSError as error:
            self._refuse(mode, f"cannot be run ({error.strerror or error})")
        except subprocess.TimeoutExpired:
            self._refuse(mode, f"took more than {_MOST_SECONDS:.0f} s")
        if self._is(mode) and not done.returncode:
            return
        # "NVPM WARN: Reboot required for changing to this power mode: 2"
        if "reboot" in done.stdout.lower():
            raise BadInput(
                f"power mode {mode.name} needs a reboot",
                where="--power-modes",
                fix=f"run {self.command(mode)}, let it reboot, and measure this mode alone",
            )
        said = " ".join(done.stdout.split()[-30:])
        if done.returncode:
            self._refuse(mode, f"failed with exit code {done.returncode}{said and f': {said}'}")
        self._refuse(mode, f"left the board in {self._current()}{said and f': {said}'}")

    def _is(self, mode: PowerMode) -> bool:
        return _plain(self._current() or "") == _plain(mode.name)

    def _words(self, mode: PowerMode) -> list[str]:
        values = {"{id}": str(mode.id), "{name}": mode.name}
        words = shlex.split(self.template)
        for field, value in values.items():
            words = [word.replace(field, value) for word in words]
        return words

    def _refuse(self, mode: PowerMode, why: str) -> NoReturn:
        raise BadInput(
            f"{self.command(mode)} {why}",
            where="--power-command",
            fix=f"try it by hand, or give another that switches to {mode.name}",
        )


def choose_power_modes(names: Sequence[str], modes: Sequence[PowerMode]) -> tuple[PowerMode, ...]:
    """The modes of these names, each once, in their order. ``15W`` is ``MODE_15W``, too.

    Raises:
        BadInput: the board has no such mode, or has none at all.
    """
    if not modes:
        raise BadInput(
            "this machine has no power modes (/etc/nvpmodel.conf lists none)",
            where="--power-modes",
            fix="leave it out: the benchmark then runs in the state that the machine is in",
        )
    by_name = {_plain(mode.name): mode for mode in modes}
    for name in names:
        if _plain(name) not in by_name:
            listed = ", ".join(mode.name for mode in modes)
            raise BadInput(
                f"{name!r} is no power mode of this board",
                where="--power-modes",
                fix=f"take some of {listed}",
            )
    return tuple(dict.fromkeys(by_name[_plain(name)] for name in names))


def plan_mode_switch(template: str | None, root: Path = Path("/")) -> ModeSwitch:
    """A switch for this board.

    Args:
        template: the user's command.
        root: of the file system.

    Raises:
        UsageError: no command, or one that names no mode.
        BadInput: nothing tells which mode the board is in, so it could not be put back.
    """
    if template is None:
        raise UsageError(
            "--power-modes needs the command that switches them",
            fix=f"--power-command '{POWER_COMMAND}'",
        )
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise UsageError(
            f"{template!r} is no command ({error})", where="--power-command"
        ) from error
    if not any("{id}" in word or "{name}" in word for word in words[1:]):
        raise UsageError(
            f"{template!r} names no mode",
            where="--power-command",
            fix=f"put {{id}} or {{name}} where the mode stands: '{POWER_COMMAND}'",
        )
    modes, current = list_power_modes(root), power_mode(root)
    found = [mode for mode in modes if _plain(mode.name) == _plain(current or "")]
    if not found:
        raise BadInput(
            f"the board is in power mode {current or 'unknown'}, which could not be put back",
            where="--power-modes",
            fix="see what nvpmodel -q says",
        )
    return ModeSwitch(template, modes, found[0], lambda: power_mode(root))


@contextmanager
def restored_power_mode(switch: ModeSwitch, say: Say) -> Iterator[None]:
    """Put the mode that was found back when the ``with`` block ends: well, on an error, on Ctrl-C or SIGTERM.

    Args:
        switch: knows the mode.
        say: told when it could not be put back, and the command that does.

    Raises:
        BadInput: it could not be put back, and the block ended well.
    """
    with _signals(_interrupt, signal.SIGTERM):
        ended_well = False
        try:
            yield
            ended_well = True
        finally:
            # Another Ctrl-C would reach the command, too, and leave the board in the wrong mode.
            with _signals(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM):
                try:
                    switch.switch(switch.found)
                except SegclipError as error:
                    by_hand = f"{switch.command(switch.found)} restores {switch.found.name}"
                    say(f"the power mode was not restored ({error.what}); {by_hand}")
                    if ended_well:
                        raise


def _plain(name: str) -> str:
    """A mode's name without ``MODE_``, which some boards put before the watts."""
    return name.removeprefix("MODE_")


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def _signals(handler: Callable[..., object] | signal.Handlers, *numbers: int) -> Iterator[None]:
    """Another handler for some signals meanwhile; only the main thread has them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old or signal.SIG_DFL)  # None: no handler of Python
