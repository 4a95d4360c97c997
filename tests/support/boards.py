"""Files that boards answer, put together from what their owners have published; none was recorded here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

Tree = Mapping[str, str]
"""What each file says, by its path below the root."""


def _hwmon(number: int, name: str, **files: object) -> Tree:
    folder = f"sys/class/hwmon/hwmon{number}"
    return {f"{folder}/{file}": f"{says}\n" for file, says in {"name": name, **files}.items()}


def _zone(number: int, name: str, millidegrees: int | None) -> Tree:
    """A zone without a value has no power, and cannot be read."""
    folder = f"sys/class/thermal/thermal_zone{number}"
    value = {} if millidegrees is None else {f"{folder}/temp": f"{millidegrees}\n"}
    return {f"{folder}/type": f"{name}\n", **value}


def _cooling(number: int, name: str, state: int) -> Tree:
    folder = f"sys/class/thermal/cooling_device{number}"
    return {f"{folder}/type": f"{name}\n", f"{folder}/cur_state": f"{state}\n"}


def _rails(monitor: str, *rails: tuple[str, int, int]) -> Tree:
    """Of an INA3221: label, mV and mA of each channel."""
    return {
        f"{monitor}/{file}": f"{says}\n"
        for index, (label, volts, amps) in enumerate(rails, start=1)
        for file, says in (
            (f"in{index}_label", label),
            (f"in{index}_input", volts),
            (f"curr{index}_input", amps),
        )
    }


ORIN_NANO: Tree = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "etc/nvpmodel.conf": (
        "# FORMAT:\n# < POWER_MODEL ID=id_num NAME=mode_name >\n"
        "< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/devices/system/cpu/cpu0/online\n\n"
        "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\nGPU MAX_FREQ 612000000\n\n"
        "< POWER_MODEL ID=1 NAME=25W >\nCPU_ONLINE CORE_0 1\nGPU MAX_FREQ 918000000\n\n"
        "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\nCPU_ONLINE CORE_0 1\nGPU MAX_FREQ -1\n\n"
        "< POWER_MODEL ID=3 NAME=7W >\nCPU_ONLINE CORE_0 1\nGPU MAX_FREQ 408000000\n\n"
        "< PM_CONFIG DEFAULT=1 >\n"
    ),
    "var/lib/nvpmodel/status": "pmode:0002\n",
    **_rails(
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1",
        ("VDD_IN", 4984, 1856),
        ("VDD_CPU_GPU_CV", 4984, 504),
        ("VDD_SOC", 4984, 480),
    ),
    **_hwmon(0, "pwm_tach", rpm=2140),
    **_hwmon(2, "pwmfan", pwm1=128),
    **_hwmon(3, "soctherm_oc", oc1_event_cnt=0, oc2_event_cnt=15, oc3_event_cnt=37, oc3_throt_en=1),
    **_zone(0, "cpu-thermal", 63625),
    **_zone(1, "gpu-thermal", None),
    **_zone(8, "tj-thermal", 64031),
    **_cooling(0, "pwm-fan", 3),
    **_cooling(1, "cpu-throttle-alert", 0),
    **_cooling(2, "gpu-throttle-alert", 0),
    **_cooling(10, "devfreq-17000000.gpu", 4),
    "sys/class/devfreq/17000000.gpu/cur_freq": "1020000000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1728000\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "729600\n",
    "sys/kernel/debug/bpmp/debug/clk/emc/rate": "3199000000\n",
}
"""Orin Nano, JetPack 6.2, as root."""

THOR: Tree = {
    "etc/nv_tegra_release": "# R38 (release), REVISION: 4.0, GCID: 43443517, BOARD: generic\n",
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "etc/nvpmodel.conf": (
        "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n\n"
        "< POWER_MODEL ID=1 NAME=120W >\nCPU_ONLINE CORE_0 1\n\n"
        "< POWER_MODEL ID=2 NAME=90W >\nCPU_ONLINE CORE_0 1\n\n"
        "< POWER_MODEL ID=3 NAME=70W >\nCPU_ONLINE CORE_0 1\n\n"
        "< PM_CONFIG DEFAULT=1 >\n"
    ),
    "var/lib/nvpmodel/status": "pmode:0001\n",
    **_rails(
        "sys/bus/i2c/drivers/ina3221/2-0040/hwmon/hwmon5",
        ("VDD_GPU", 12040, 640),
        ("VDD_CPU_SOC_MSS", 12040, 960),
        ("VIN_SYS_5V0", 5088, 1740),
    ),
    "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon6/power1_input": "40125000\n",
    "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon6/label": "VIN\n",
    **_hwmon(1, "pwmfan", pwm1=97),
    **_hwmon(4, "pwm_tach", rpm=5400),
    **_hwmon(7, "soctherm_oc", oc1_event_cnt=0, oc2_event_cnt=0, oc3_event_cnt=179),
    **_zone(0, "cpu-thermal", 107500),
    **_zone(1, "gpu-thermal", 108900),
    **_zone(4, "tj-thermal", 108900),
    **_cooling(7, "pwm-fan", 4),
    **_cooling(8, "cpu-throttle-alert", 0),
    **_cooling(9, "gpu-throttle-alert", 1),
    **_cooling(10, "soc012-throttle-alert", 0),
    **_cooling(12, "devfreq-gpu-gpc-0", 18),
    "sys/class/devfreq/gpu-gpc-0/cur_freq": "1386000000\n",
    "sys/class/devfreq/gpu-nvd-0/cur_freq": "1692000000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "2601000\n",
}
"""AGX Thor, JetPack 7.1, hot, as a user: debugfs is closed."""

X86: Tree = {
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "11\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "2\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count": "11\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "3399902\n",
    "sys/devices/system/cpu/cpufreq/policy1/scaling_cur_freq": "800000\n",
    **_zone(0, "acpitz", 27800),
    **_zone(1, "acpitz", 29800),
    **_zone(2, "x86_pkg_temp", 61000),
    **_hwmon(0, "nvme", temp1_input=38850),
    **_hwmon(1, "coretemp", temp1_input=62000, temp1_label="Package id 0"),
    **_hwmon(2, "thinkpad", fan1_input=2670),
}
"""A notebook with an Intel processor."""


def write_tree(root: Path, tree: Tree) -> Path:
    """Write the files of a tree below a root."""
    for name, says in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(says, encoding="utf-8")
    return root


def write_command(path: Path, body: str) -> str:
    """A shell script that switches modes, and the template that calls it with the mode's id."""
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return f"{path} {{id}}"


def write_switch(folder: Path, root: Path, before: str = "") -> str:
    """A command that switches as nvpmodel does: it keeps the mode in its file, and adds it to ``log``."""
    return write_command(
        folder / "switch",
        f"{before}\necho $1 >> '{folder}/log'\n"
        f"printf 'pmode:%04d\\n' $1 > '{root}/var/lib/nvpmodel/status'",
    )
