"""Flight controllers for tests: MAVLink packed by pymavlink, and a log as ArduPilot writes it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pymavlink.dialects.v20 import ardupilotmega as mavlink

S = 1_000_000_000
TAKE_OFF = 1_780_000_000 * S
"""Nanoseconds since 1970."""


def messages(second: float, *, fix: int = 3) -> list[Any]:
    """What a vehicle says in one second: north at 11 m/s, turning by 2° a second."""
    boot = round(1000 * second)
    return [
        mavlink.MAVLink_gps_raw_int_message(0, fix, 0, 0, 0, 0, 0, 0, 0, 12),
        mavlink.MAVLink_attitude_message(boot, 0.1, -0.2, 0.0349065850 * second, 0, 0, 0),
        mavlink.MAVLink_global_position_int_message(
            boot, *position(second), round(1000 * (500 + second)), 0, 0, 0, 0, 0
        ),
    ]


def position(second: float) -> tuple[int, int]:
    return round(1e7 * (46 + 1e-4 * second)), 70_000_000


def packed(message: Any, system: int = 1) -> bytes:
    return bytes(message.pack(mavlink.MAVLink(None, system, 1)))


def write_tlog(path: Path, seconds: int = 10, **options: Any) -> Path:
    """A ground station's log: 8 bytes of microseconds before each packet."""
    with path.open("wb") as log:
        for second in range(seconds):
            stamp = struct.pack(">Q", TAKE_OFF // 1000 + 1_000_000 * second)
            for message in messages(second, **options):
                log.write(stamp + packed(message))
    return path


_BIN = {  # name: (number, format, columns)
    "FMT": (128, "BBnNZ", "Type,Length,Name,Format,Columns"),
    "GPS": (130, "QBBIHBcLLe", "TimeUS,I,Status,GMS,GWk,NSats,HDop,Lat,Lng,Alt"),
    "POS": (131, "QLLfff", "TimeUS,Lat,Lng,Alt,RelHomeAlt,RelOriginAlt"),
    "ATT": (132, "Qccccccc", "TimeUS,DesRoll,Roll,DesPitch,Pitch,DesYaw,Yaw,ErrRP"),
}
_CODES = {"B": "B", "n": "4s", "N": "16s", "Z": "64s", "Q": "Q", "I": "I", "H": "H"}
_CODES |= {"c": "h", "L": "i", "e": "i", "f": "f"}


def write_bin(path: Path, seconds: int = 10) -> Path:
    """A log of ArduPilot (DataFlash), with nothing in it but what is read."""

    def record(name: str, *values: Any) -> bytes:
        number, layout, _ = _BIN[name]
        return b"\xa3\x95" + bytes([number]) + struct.pack(f"<{_layout(layout)}", *values)

    def formats() -> Iterator[bytes]:
        for name, (number, layout, columns) in _BIN.items():
            length = 3 + struct.calcsize(f"<{_layout(layout)}")
            yield record("FMT", number, length, name.encode(), layout.encode(), columns.encode())

    # GPS time: since 1980-01-06, 18 leap seconds ahead of UTC.
    week, into = divmod(TAKE_OFF // S - 315_964_800 + 18, 7 * 86_400)
    with path.open("wb") as log:
        log.writelines(formats())
        for second in range(seconds):
            us, lat, lng = 1_000_000 * (second + 5), *position(second)
            ms = 1000 * (into + second)
            log.write(record("GPS", us, 0, 3, ms, week, 12, 80, lat, lng, 50_000 + 100 * second))
            log.write(record("POS", us, lat, lng, 500.0 + second, 0, 0))
            log.write(record("ATT", us, 0, 573, 0, -1146, 0, 200 * (second % 150), 0))
    return path


def _layout(layout: str) -> str:
    return "".join(_CODES[code] for code in layout)
