"""Position and attitude from a flight controller: MAVLink, live or logged."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segclip_deploy._optional import require
from segclip_deploy.errors import BadInput, UsageError, command
from segclip_deploy.runtime.io.telemetry.autopilot import Autopilot
from segclip_deploy.runtime.io.telemetry.track import Track

__all__ = ["open_telemetry"]

_POLL_S = 0.2  # how soon a link is left when the run ends
_RECORD_HEAD = 3  # bytes of a record in a .bin before its fields
_LOGS = (".tlog", ".bin")
_FORMS = "udp:HOST:PORT, serial:DEVICE:BAUD, a .tlog or a .bin"


@contextmanager
def open_telemetry(source: str, *, report: Callable[[str], None]) -> Iterator[Track]:
    """Position and attitude of a flight controller, for as long as the body runs.

    Args:
        source: ``udp:127.0.0.1:14550`` (listens there), ``serial:/dev/ttyTHS1:57600``, or a log: a
            ground station's ``flight.tlog``, or ArduPilot's ``flight.bin``.
        report: is told what a log holds, and what is wrong with positions.

    Raises:
        UsageError: ``source`` is none of these.
        BadInput: a log that cannot be read or has no position, or a link that cannot be opened.
        MissingDependency: pymavlink, or for a serial port pyserial, is not installed.

    Examples:
        >>> with open_telemetry("udp:127.0.0.1:0", report=print) as track:
        ...     len(track)
        0
    """
    kind, _, rest = source.partition(":")
    if kind in ("udp", "serial"):
        place, _, number = rest.rpartition(":")
        if not place or not number.isdecimal():
            raise UsageError(f"telemetry is {_FORMS}", where=f"--telemetry {source}")
        opened = _udp(place, int(number)) if kind == "udp" else _serial(place, int(number))
        with opened as read:
            track = Track(source, report=report, live=True)
            with _listening(read, track, report):
                yield track
        return
    path = Path(source)
    if path.suffix.lower() not in _LOGS:
        raise UsageError(f"telemetry is {_FORMS}", where=f"--telemetry {source}")
    track = Track(source, report=report)
    _read_log(path, track, report)
    yield track


@contextmanager
def _udp(host: str, port: int) -> Iterator[Callable[[], bytes]]:
    """Bytes that come to a port."""
    where = f"--telemetry udp:{host}:{port}"
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][0]
        link = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as error:
        raise BadInput(f"cannot listen there ({error.strerror})", where=where) from error
    with link:
        try:
            link.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadInput(
                f"cannot listen there ({reason})",
                where=where,
                fix="listen on an address and a port of this machine that are free",
            ) from error
        link.settimeout(_POLL_S)

        def read() -> bytes:
            with contextlib.suppress(TimeoutError):
                return link.recv(65536)
            return b""

        yield read


@contextmanager
def _serial(device: str, baud: int) -> Iterator[Callable[[], bytes]]:
    """Bytes that come over a serial port."""
    serial = require("serial", why="telemetry over a serial port", extra="telemetry")
    try:
        link = serial.Serial(device, baud, timeout=_POLL_S)
    except (OSError, ValueError) as error:  # SerialException is an OSError
        raise BadInput(
            f"cannot be opened ({error})",
            where=f"--telemetry serial:{device}:{baud}",
            fix=command("ls", "-l", device),
        ) from error
    with link:
        yield lambda: bytes(link.read(max(1, link.in_waiting)))


@contextmanager
def _listening(
    read: Callable[[], bytes], track: Track, report: Callable[[str], None]
) -> Iterator[None]:
    """Add to a track what comes, in a thread of its own; a reading is of the time when it came."""
    dialect = require("pymavlink.dialects.v20.ardupilotmega", why="telemetry")
    parser = dialect.MAVLink(io.BytesIO())
    parser.robust_parsing = True
    autopilot, ended = Autopilot(track, report), threading.Event()

    def listen() -> None:
        while not ended.is_set():
            try:
                data = read()
                now = time.time_ns()
                for message in parser.parse_buffer(data) or ():
                    autopilot.take(message, now)
            except OSError as error:
                report(f"{track.name}: telemetry has ended ({error}); its positions become null")
                return
            except dialect.MAVError:
                continue  # a damaged message; the next is found by its first byte

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(10 * _POLL_S)


def _read_log(path: Path, track: Track, report: Callable[[str], None]) -> None:
    """Add to a track what a log holds."""
    autopilot = Autopilot(track, report)
    told = io.StringIO()  # pymavlink prints a line for each damaged byte
    try:
        path.open("rb").close()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            log = _opened_log(path)
            while (message := log.recv_match(type=autopilot.kinds)) is not None:
                autopilot.take(message, round(message._timestamp * 1e6) * 1000)
            log.close()
    except OSError as error:
        raise BadInput(f"not readable ({error.strerror})", where=path) from error
    except Exception as error:  # pymavlink raises many types on a log that is none
        reason = f"{type(error).__name__}: {error}"
        raise BadInput(f"no log that can be read ({reason})", where=path) from error
    if not len(track):
        raise BadInput("holds no position and no attitude", where=path)
    damaged = "; parts of it are damaged, and left out" if told.getvalue() else ""
    report(f"{path}: {track.describe()}{damaged}")


class _Formats(dict[int, Any]):
    """Formats of records by their number; none may be shorter than the three bytes it begins with."""

    def __setitem__(self, number: int, layout: Any) -> None:
        if layout.len < _RECORD_HEAD:
            raise ValueError("a record without a length")
        super().__setitem__(number, layout)


def _opened_log(path: Path) -> Any:
    """A log of pymavlink's; of a damaged ``.bin`` that would be read for ever, an error in time."""
    if path.suffix.lower() != ".bin":
        return require("pymavlink.mavutil", why="telemetry").mavlink_connection(str(path))
    reader = require("pymavlink.DFReader", why="telemetry")

    class Log(reader.DFReader_binary):  # type: ignore[misc, name-defined]
        formats: Any

        def init_arrays(self, progress_callback: Any = None) -> None:
            self.formats = _Formats(self.formats)
            super().init_arrays(progress_callback)

        def init_arrays_fast(self, progress_callback: Any = None) -> None:
            self.init_arrays(progress_callback)  # the fast one prints past sys.stderr

    return Log(str(path))
