"""What NVIDIA's management library says of the first card: watts, degrees, clocks, fan, slowdowns."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

__all__ = ["Card", "find_card"]

_GPU_SENSOR = 0  # nvmlTemperatureSensors_t
_CLOCKS = {"graphics": 0, "memory": 2}  # nvmlClockType_t
_SLOWDOWNS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Reasons that take clocks away from a card that works. Idling and clocks that somebody set are none."""


@dataclass(frozen=True)
class Card:
    """A card of the management library. What it does not support is None: on a Jetson most of it.

    Names and units: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html.

    Attributes:
        library: the loaded ``libnvidia-ml``.
        handle: of the card.
    """

    library: Any
    handle: Any

    def watts(self) -> float | None:
        """Power of the whole card."""
        milliwatts = self._asked("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1e3

    def limit_watts(self) -> float | None:
        """Power that the driver holds the card to."""
        milliwatts = self._asked("nvmlDeviceGetEnforcedPowerLimit")
        return None if milliwatts is None else milliwatts / 1e3

    def celsius(self) -> int | None:
        """Temperature of the GPU."""
        return self._asked("nvmlDeviceGetTemperature", _GPU_SENSOR)

    def mhz(self, clock: str) -> int | None:
        """A clock: ``"graphics"`` or ``"memory"``."""
        return self._asked("nvmlDeviceGetClockInfo", _CLOCKS[clock])

    def fan_duty(self) -> float | None:
        """What the fan is asked for, a share of 1; None for a card without one."""
        percent = self._asked("nvmlDeviceGetFanSpeed")
        return None if percent is None else percent / 100

    def slowdowns(self) -> tuple[str, ...] | None:
        """What takes clocks away at this moment.

        Bits: https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html. Drivers before
        R535 call the function by its older name.
        """
        for name in ("Event", "Throttle"):
            bits = self._asked(f"nvmlDeviceGetCurrentClocks{name}Reasons", to=ctypes.c_ulonglong)
            if bits is not None:
                return tuple(what for bit, what in _SLOWDOWNS.items() if bits & bit)
        return None

    def _asked(self, function: str, *more: int, to: Any = ctypes.c_uint) -> int | None:
        value, ask = to(), getattr(self.library, function, None)
        if ask is None or ask(self.handle, *more, ctypes.byref(value)):
            return None
        return int(value.value)


def find_card(library: Any = None) -> Card | None:
    """The first card, or None where there is no library, or no card.

    Args:
        library: the loaded ``libnvidia-ml``; None loads it.
    """
    try:
        found = library or ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle = ctypes.c_void_p()
    if found.nvmlInit_v2() or found.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)):
        return None
    return Card(found, handle)
