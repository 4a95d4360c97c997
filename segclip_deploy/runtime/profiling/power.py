"""Watts and degrees while something runs, from whatever sensor this machine has."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from segclip_deploy.artifacts.records import Record
from segclip_deploy.runtime.profiling.heat import find_sensors
from segclip_deploy.runtime.profiling.kernel_files import kernel_number, kernel_text
from segclip_deploy.runtime.profiling.nvml import find_card

__all__ = ["PowerLog", "PowerMeter", "find_thermometer", "find_wattmeter"]

_Watts = Callable[[], float | None]

_ROOT = Path("/")
_TOTALS = (
    ("VDD_IN",),  # Orin NX, Orin Nano
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin, which has no rail for the whole
    ("POM_5V_IN",),  # older modules
)
"""Rails of a Jetson's INA3221 that together are what the module takes."""


class PowerLog(Record, frozen=True):
    """What the sensors told.

    Attributes:
        sensor: name of the wattmeter; None where there is none.
        at: seconds since the start, one value a reading.
        watts: power at each reading that told it; empty without a sensor.
        celsius: temperature of the hottest sensor, likewise; empty where none can be read.
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


def find_wattmeter(root: Path = _ROOT) -> tuple[str | None, _Watts | None]:
    """Name and reader of the best sensor here: a Jetson's rails or input, NVML, or RAPL."""
    nvml = _nvml() if root == _ROOT else None
    for found in (_ina3221(root), _ina238(root), nvml, _rapl(root)):
        if found:
            return found
    return None, None


def find_thermometer(root: Path = _ROOT) -> Callable[[], float | None] | None:
    """Reader of the hottest sensor, °C; None where there is none."""
    sensors = find_sensors(root).values()

    def hottest() -> float | None:
        values = [v for sensor in sensors if (v := kernel_number(sensor)) is not None]
        return max(values) / 1e3 if values else None

    return None if hottest() is None else hottest


def _ina3221(root: Path) -> tuple[str, _Watts] | None:
    """A Jetson module: in<i>_label, in<i>_input in mV, curr<i>_input in mA.

    AGX Orin measures three rails. DDR memory (VDDQ_VDD2_1V8AO) is part of VIN_SYS_5V0, so it is not added.
    One rail alone would be a part of the power under the name of the whole: all three, or none.
    Names: Jetson Linux Developer Guide r36.3, "Jetson Orin Nano Series, Jetson Orin NX Series and
    Jetson AGX Orin Series", "Software-Based Power Consumption Modeling". Files:
    https://docs.kernel.org/hwmon/ina3221.html.
    """
    rails: dict[str, tuple[Path, Path]] = {}
    for label in sorted(root.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label")):
        index = label.name.removeprefix("in").removesuffix("_label")
        volts, amps = label.with_name(f"in{index}_input"), label.with_name(f"curr{index}_input")
        rails[kernel_text(label)] = volts, amps
    for names in _TOTALS:
        if rails.keys() >= set(names):
            return f"INA3221 {' + '.join(names)}", _watts_of(*(rails[name] for name in names))
    return None


def _ina238(root: Path) -> tuple[str, _Watts] | None:
    """The input of a Jetson Thor, with its carrier board: power1_input in µW.

    A carrier board may have more of these sensors, so the label must be VIN, where there is one, and
    one sensor alone may be meant. Files: https://docs.kernel.org/hwmon/ina238.html. That it measures
    the input: https://forums.developer.nvidia.com/t/366461.
    """
    inputs = [
        power
        for power in root.glob("sys/bus/i2c/drivers/ina238/*/hwmon/hwmon*/power1_input")
        if kernel_text(power.with_name("label")) in ("VIN", "")
    ]
    return ("INA238 VIN", _watts_of(inputs)) if len(inputs) == 1 else None


def _watts_of(*rails: Iterable[Path]) -> _Watts:
    """Reader of the sum over rails, each the product of its files, in µW; None while one is unreadable."""

    def watts() -> float | None:
        read = [[kernel_number(path) for path in rail] for rail in rails]
        total = sum(math.prod(math.nan if v is None else v for v in values) for values in read)
        return None if math.isnan(total) else total / 1e6

    return watts


def _nvml() -> tuple[str, _Watts] | None:
    """The whole card, by NVIDIA's management library; on a Jetson it answers "not supported"."""
    card = find_card()
    if card is None or card.watts() is None:
        return None
    return "NVML, the GPU's card", card.watts


def _rapl(root: Path) -> tuple[str, _Watts] | None:
    """The processor's package: a counter of microjoules that only root may read, on most systems."""
    counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    before = kernel_number(counter)
    if before is None:
        return None
    last = [time.monotonic(), before]

    def watts() -> float | None:
        now, energy = time.monotonic(), kernel_number(counter)
        if energy is None:
            return None
        spent, elapsed = energy - last[1], now - last[0]
        last[:] = [now, energy]
        return spent / 1e6 / elapsed if spent >= 0 and elapsed > 0 else None  # it wraps around

    return "RAPL, the processor's package", watts
