"""How hot a machine is, how fast its clocks are, and whether something takes them away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from segclip_deploy.artifacts.records import Record
from segclip_deploy.runtime.profiling.kernel_files import kernel_number, kernel_text
from segclip_deploy.runtime.profiling.nvml import Card, find_card
from segclip_deploy.runtime.targets.device import power_mode

__all__ = ["HeatReading", "HeatSpan", "find_sensors", "read_heat"]

_ROOT = Path("/")
_GPU_CLOCKS = ("17000000.gpu", "17000000.ga10b", "gpu-gpc-0")
"""Names below /sys/class/devfreq: Orin with JetPack 6, with JetPack 5, and Thor
(https://github.com/rbonghi/jetson_stats/issues/885)."""
_CPU_SENSORS = ("coretemp", "k10temp")
"""Drivers of Intel's and AMD's own sensors; AMD's are no thermal zones."""


class HeatReading(Record, frozen=True):
    """A machine at one moment; None, or no entry, for what cannot be read.

    Attributes:
        celsius: temperature of each sensor, by the name that the kernel gives it.
        cpu_mhz: clock of the CPU, by group of cores that share one.
        gpu_mhz: clock of the GPU.
        memory_mhz: clock of the memory; a Jetson tells it to root only.
        fan_rpm: turns of the fan a minute.
        fan_duty: what the fan is asked for, a share of 1.
        power_mode: of a Jetson, as ``nvpmodel`` calls it.
        limit_watts: power that the driver holds a GPU's card to.
        throttle_events: times that clocks were taken away since the system started, by cause.
        throttling: what takes clocks away at this moment.
    """

    celsius: Mapping[str, float]
    cpu_mhz: Mapping[str, int]
    gpu_mhz: int | None
    memory_mhz: int | None
    fan_rpm: int | None
    fan_duty: float | None
    power_mode: str | None
    limit_watts: float | None
    throttle_events: Mapping[str, int]
    throttling: tuple[str, ...] | None

    @property
    def hottest(self) -> float | None:
        """The highest temperature, °C; None without a sensor."""
        return max(self.celsius.values(), default=None)


class HeatSpan(Record, frozen=True):
    """A machine over some time.

    Attributes:
        before: at the start.
        after: at the end.
        steady: whether the temperature was steady from the start to the end; None without a sensor.
        throttle_events: times that clocks were taken away meanwhile, by cause; empty where nothing counts them.
        throttled: what took clocks away in any reading; None where nothing tells.
    """

    before: HeatReading
    after: HeatReading
    steady: bool | None
    throttle_events: Mapping[str, int]
    throttled: tuple[str, ...] | None

    @property
    def causes(self) -> tuple[str, ...] | None:
        """What took clocks away, counted or seen; None where nothing tells of it."""
        if self.throttled is None and not self.throttle_events:
            return None
        counted = [cause for cause, times in self.throttle_events.items() if times]
        return tuple(dict.fromkeys([*counted, *(self.throttled or ())]))

    def then(self, later: HeatSpan) -> HeatSpan:
        """This span and a later one as one; what was between them counts for nothing."""
        causes = self.throttle_events.keys() | later.throttle_events.keys()
        seen = [span.throttled for span in (self, later) if span.throttled is not None]
        return HeatSpan(
            before=self.before,
            after=later.after,
            steady=None if None in (self.steady, later.steady) else self.steady and later.steady,
            throttle_events={
                cause: self.throttle_events.get(cause, 0) + later.throttle_events.get(cause, 0)
                for cause in sorted(causes)
            },
            throttled=tuple(sorted({one for causes in seen for one in causes})) if seen else None,
        )


def read_heat(root: Path = _ROOT) -> HeatReading:
    """Temperatures, clocks, fan and throttling at this moment.

        >>> read_heat(Path("nowhere")).celsius
        {}

    Args:
        root: of the file system; of another than this machine's only files are read.
    """
    card = find_card() if root == _ROOT else None
    rpm, duty = _fan(root)
    celsius = {name: round(read / 1e3, 3) for name, read in _readings(find_sensors(root))}
    warm = card.celsius() if card else None
    return HeatReading(
        celsius=celsius if warm is None else {**celsius, "card": float(warm)},
        cpu_mhz=_cpu_mhz(root),
        gpu_mhz=_gpu_mhz(root, card),
        memory_mhz=_memory_mhz(root, card),
        fan_rpm=rpm,
        fan_duty=card.fan_duty() if duty is None and card else duty,
        power_mode=power_mode(root),
        limit_watts=card.limit_watts() if card else None,
        throttle_events=_events(root),
        throttling=_throttling(root, card),
    )


def find_sensors(root: Path = _ROOT) -> dict[str, Path]:
    """Files with temperatures in thousandths of a degree, by name.

    Thermal zones: https://docs.kernel.org/driver-api/thermal/sysfs-api.html. The CPU's own sensors:
    https://docs.kernel.org/hwmon/coretemp.html and https://docs.kernel.org/hwmon/k10temp.html.
    """
    found = [
        (kernel_text(zone / "type") or zone.name, zone / "temp")
        for zone in sorted(root.glob("sys/class/thermal/thermal_zone*"))
    ]
    for monitor in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if kernel_text(monitor / "name") in _CPU_SENSORS:
            for file in sorted(monitor.glob("temp*_input")):
                label = kernel_text(file.with_name(file.name.replace("_input", "_label")))
                found.append((label or f"{monitor.name} {file.name}", file))
    names: dict[str, Path] = {}
    for name, file in found:  # two zones may have one name: "acpitz"
        same = sum(other == name or other.startswith(f"{name} (") for other in names)
        names[f"{name} ({same + 1})" if same else name] = file
    return names


def _readings(files: Mapping[str, Path]) -> Iterator[tuple[str, float]]:
    """What can be read of them."""
    for name, file in files.items():
        value = kernel_number(file)
        if value is not None:
            yield name, value


def _cpu_mhz(root: Path) -> dict[str, int]:
    """https://docs.kernel.org/admin-guide/pm/cpufreq.html: kHz, by policy."""
    policies = sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*"))
    clocks = {policy.name: policy / "scaling_cur_freq" for policy in policies}
    return {name: round(khz / 1e3) for name, khz in _readings(clocks)}


def _gpu_mhz(root: Path, card: Card | None) -> int | None:
    """Hz, by the kernel's Documentation/ABI/testing/sysfs-class-devfreq."""
    for name in _GPU_CLOCKS:
        hertz = kernel_number(root / "sys/class/devfreq" / name / "cur_freq")
        if hertz is not None:
            return round(hertz / 1e6)
    return card.mhz("graphics") if card else None


def _memory_mhz(root: Path, card: Card | None) -> int | None:
    """A Jetson's memory (EMC) in debugfs, where ``jetson_clocks --show`` reads it, too: Hz."""
    hertz = kernel_number(root / "sys/kernel/debug/bpmp/debug/clk/emc/rate")
    if hertz is not None:
        return round(hertz / 1e6)
    return card.mhz("memory") if card else None


def _fan(root: Path) -> tuple[int | None, float | None]:
    """Turns a minute, and duty as a share of 1.

    A Jetson has two monitors: ``pwmfan`` with pwm1, 0 to 255, and a tachometer with rpm. Others have
    fan1_input: https://docs.kernel.org/hwmon/sysfs-interface.html.
    """
    rpm = duty = None
    for monitor in sorted(root.glob("sys/class/hwmon/hwmon*")):
        for name in ("rpm", "fan1_input"):
            rpm = kernel_number(monitor / name) if rpm is None else rpm
        duty = kernel_number(monitor / "pwm1") if duty is None else duty
    return None if rpm is None else int(rpm), None if duty is None else round(duty / 255, 3)


def _events(root: Path) -> dict[str, int]:
    """Times that clocks were taken away, by cause.

    A Jetson counts what its input does to it, in the monitor ``soctherm_oc``, as NVIDIA's driver
    ``tegra23x-oc-event`` names it. On Orin oc1 is too low a voltage, oc2 too high a mean current, oc3 too high a
    current of a moment (https://forums.developer.nvidia.com/t/321989). Intel's CPUs count heat: those of the
    cores are summed, and of those of the package, which each core repeats, the highest counts:
    https://docs.kernel.org/admin-guide/thermal/intel_thermal_throttle.html.
    """
    files = sorted(root.glob("sys/class/hwmon/hwmon*/oc*_event_cnt"))
    found = _readings({file.name.removesuffix("_event_cnt"): file for file in files})
    events = {name: int(times) for name, times in found}
    for kind, together in (("core", sum), ("package", max)):
        pattern = f"sys/devices/system/cpu/cpu*/thermal_throttle/{kind}_throttle_count"
        times = [kernel_number(file) for file in root.glob(pattern)]
        if known := [int(one) for one in times if one is not None]:
            events[kind] = together(known)
    return events


def _throttling(root: Path, card: Card | None) -> tuple[str, ...] | None:
    """What takes clocks away now.

    A Jetson has cooling devices for that, ``cpu-throttle-alert``, ``gpu-throttle-alert`` and others,
    whose state is above 0 while it does: Jetson Linux Developer Guide r36.3, "Jetson Orin Nano Series, Jetson Orin
    NX Series and Jetson AGX Orin Series", "Thermal Management".
    """
    alerts = {
        kernel_text(device / "type"): device / "cur_state"
        for device in sorted(root.glob("sys/class/thermal/cooling_device*"))
        if kernel_text(device / "type").endswith("-throttle-alert")
    }
    states = dict(_readings(alerts))
    slowdowns = card.slowdowns() if card else None
    if not states and slowdowns is None:
        return None
    return tuple(sorted(name for name, state in states.items() if state)) + (slowdowns or ())
