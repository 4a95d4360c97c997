"""Messages to a service manager, as sd_notify(3) describes them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType

from segclip_deploy.errors import BadInput

__all__ = ["Notifier", "open_notifier"]


class Notifier:
    """A datagram socket of the manager.

    A message never waits for the manager, unless it is told to: a frame is worth more.

    Args:
        address: a path, or a name behind ``@``: an abstract socket of Linux.
        watchdog_s: within how many seconds the manager wants to hear of life; None: it does not.

    Raises:
        BadInput: another kind of address, or nobody listens there.

    Examples:
        >>> Notifier("host:1234")
        Traceback (most recent call last):
            ...
        segclip_deploy.errors.BadInput: NOTIFY_SOCKET: 'host:1234' is neither a path nor an abstract socket
    """

    def __init__(self, address: str, *, watchdog_s: float | None = None) -> None:
        if address[:1] not in ("/", "@") or len(address) < 2:
            raise BadInput(f"{address!r} is neither a path nor an abstract socket", where=_SOCKET)
        self.watchdog_s = watchdog_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(f"\0{address[1:]}" if address[0] == "@" else address)
        except OSError as error:
            self._socket.close()
            reason = error.strerror or error
            raise BadInput(f"nobody listens at {address!r} ({reason})", where=_SOCKET) from error

    def __enter__(self) -> Notifier:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, *assignments: str, wait_s: float = 0.0) -> bool:
        """Send assignments in one message, for example ``"READY=1"``.

        Args:
            assignments: of variables; line breaks in a value become spaces.
            wait_s: for how long it may wait for a manager that is busy.

        Returns:
            Whether the manager has it. One that is busy, or is started anew, has it not.
        """
        lines = (" ".join(assignment.split()) for assignment in assignments)
        self._socket.settimeout(wait_s)
        with suppress(OSError):
            self._socket.send("\n".join(lines).encode(errors="replace"))
            return True
        return False


def open_notifier(environment: Mapping[str, str] | None = None) -> Notifier | None:
    """The manager that started this process; None where none listens.

    Args:
        environment: with NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; by default that of the process.

    Raises:
        BadInput: one of them is no such thing, or nobody listens.
    """
    environment = os.environ if environment is None else environment
    address = environment.get(_SOCKET)
    if not address:
        return None
    return Notifier(address, watchdog_s=_watchdog(environment))


def _watchdog(environment: Mapping[str, str]) -> float | None:
    """Seconds of the watchdog, by sd_watchdog_enabled(3); None where it is off, or another process's."""
    microseconds = environment.get("WATCHDOG_USEC")
    if not microseconds or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not (microseconds.isdecimal() and int(microseconds)):
        raise BadInput(f"{microseconds!r} is no number of microseconds", where="WATCHDOG_USEC")
    return int(microseconds) / 1e6


_SOCKET = "NOTIFY_SOCKET"
