"""Watts and degrees while something runs, from whatever sensor this machine has."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segclip_deploy.artifacts.records import Record

__all__ = ["PowerLog", "PowerMeter", "find_thermometer", "find_wattmeter"]

_ROOT = Path("/")
_TOTAL_RAILS = ("VDD_IN", "SYS5V", "POM_5V_IN")  # of a Jetson: what the whole module takes


class PowerLog(Record, frozen=True):
    """What the sensors told.

    Attributes:
        sensor: name of the wattmeter; None where there is none.
        at: seconds since the start, one value a reading.
        watts: power at each reading that told it; empty without a sensor.
        celsius: temperature of the hottest zone, likewise; empty where none can be read.
    """

    sensor: str | None
    at: tuple[float, ...]
    watts: tuple[float, ...]
    celsius: tuple[float, ...]

    def joules(self, seconds: float) -> float | None:
        """Energy of so many seconds at the mean power; None without a sensor."""
        return sum(self.watts) / len(self.watts) * seconds if self.watts else None


class PowerMeter:
    """Reads sensors in a thread while the ``with`` block runs.

    Args:
        period: seconds between readings.
        root: of the file system.
    """

    def __init__(self, *, period: float = 0.1, root: Path = _ROOT) -> None:
        self.sensor, self._watts = find_wattmeter(root)
        self._celsius = find_thermometer(root)
        self._period, self._stop = period, threading.Event()
        self._rows: list[tuple[float, float | None, float | None]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> PowerMeter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def log(self) -> PowerLog:
        """What was read so far."""
        rows = list(self._rows)
        return PowerLog(
            sensor=self.sensor,
            at=tuple(at for at, _, _ in rows),
            watts=tuple(watts for _, watts, _ in rows if watts is not None),
            celsius=tuple(degrees for _, _, degrees in rows if degrees is not None),
        )

    def _read(self) -> None:
        started = time.monotonic()
        while True:
            now = time.monotonic() - started
            row = (now, self._watts and self._watts(), self._celsius and self._celsius())
            self._rows.append(row)
            if self._stop.wait(self._period):
                return


def find_wattmeter(root: Path = _ROOT) -> tuple[str | None, Callable[[], float | None] | None]:
    """Name and reader of the best sensor here: a Jetson's input rail, NVML, or RAPL."""
    for found in (_ina3221(root), _nvml() if root == _ROOT else None, _rapl(root)):
        if found:
            return found
    return None, None


def find_thermometer(root: Path = _ROOT) -> Callable[[], float | None] | None:
    """Reader of the hottest thermal zone, °C; None where there is none."""
    zones = sorted(root.glob("sys/class/thermal/thermal_zone*/temp"))
    if not any(_number(zone) is not None for zone in zones):
        return None

    def hottest() -> float | None:
        values = [v for zone in zones if (v := _number(zone)) is not None]
        return max(values) / 1e3 if values else None

    return hottest


def _ina3221(root: Path) -> tuple[str, Callable[[], float | None]] | None:
    """NVIDIA's Jetson guide, "Power Monitor": in<i>_label, in<i>_input mV, curr<i>_input mA."""
    for label in sorted(root.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label")):
        if label.read_text(encoding="ascii", errors="replace").strip() in _TOTAL_RAILS:
            index = label.name.removeprefix("in").removesuffix("_label")
            volts, amps = label.with_name(f"in{index}_input"), label.with_name(f"curr{index}_input")

            def watts(volts: Path = volts, amps: Path = amps) -> float | None:
                v, a = _number(volts), _number(amps)
                return None if v is None or a is None else v * a / 1e6

            return f"INA3221 {label.read_text(encoding='ascii').strip()}", watts
    return None


def _nvml() -> tuple[str, Callable[[], float | None]] | None:
    """The whole card, by NVIDIA's management library."""
    try:
        library: Any = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    card, milliwatts = ctypes.c_void_p(), ctypes.c_uint()
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(card)):
        return None
    if library.nvmlDeviceGetPowerUsage(card, ctypes.byref(milliwatts)):
        return None  # Jetson's library answers "not supported"

    def watts() -> float | None:
        failed = library.nvmlDeviceGetPowerUsage(card, ctypes.byref(milliwatts))
        return None if failed else milliwatts.value / 1e3

    return "NVML, the GPU's card", watts


def _rapl(root: Path) -> tuple[str, Callable[[], float | None]] | None:
    """The processor's package: a counter of microjoules that only root may read, on most systems."""
    counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    before = _number(counter)
    if before is None:
        return None
    last = [time.monotonic(), before]

    def watts() -> float | None:
        now, energy = time.monotonic(), _number(counter)
        if energy is None:
            return None
        spent, elapsed = energy - last[1], now - last[0]
        last[:] = [now, energy]
        return spent / 1e6 / elapsed if spent >= 0 and elapsed > 0 else None  # it wraps around

    return "RAPL, the processor's package", watts


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
