"""``profile`` and ``compare``: what is measured, what sensors say, and what may be compared."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import BadArtifact
from segclip_deploy.runtime.build_engine import build_engine
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.inference.frame import read_frame
from segclip_deploy.runtime.inference.label_map import LabelMap, StageTimes
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.profiling import measure
from segclip_deploy.runtime.profiling.cold import cold_starts
from segclip_deploy.runtime.profiling.conditions import device_conditions, find_memory
from segclip_deploy.runtime.profiling.kernel_files import kernel_number
from segclip_deploy.runtime.profiling.layers import layer_medians
from segclip_deploy.runtime.profiling.measure import sample, statistics, warm_up
from segclip_deploy.runtime.profiling.power import PowerMeter, find_thermometer, find_wattmeter
from segclip_deploy.runtime.profiling.profile import profile_engine
from segclip_deploy.runtime.registry import TARGETS
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.targets.openvino import OpenVinoBackend
from tests.support.fake_tensorrt import install
from tests.support.fakes import FakeBackend
from tests.support.helpers import call


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(path)
    return path


# ---- figures


def test_statistics_are_those_of_the_values() -> None:
    found = statistics([10.0, 12.0, 11.0, 15.0, 10.0])
    assert (found.p50, found.max, found.samples) == (11.0, 15.0, 5)
    assert found.jitter == (2 + 1 + 4 + 5) / 4
    assert found.p99 == pytest.approx(14.88)
    assert statistics([3.0]).jitter == 0


class Clock:
    """Pretends that frames take the times it is given, in order."""

    def __init__(self, times: list[float]) -> None:
        self.times = iter(times)
        self.taken = 0

    def segment(self, frame: Any) -> LabelMap:
        self.taken += 1
        ms = next(self.times, 100.0)
        return LabelMap(
            np.zeros((1, 1), np.uint8),
            1,
            StageTimes(0, ms, 0),
            vocabulary=load_vocabulary("dubai"),
            frame=frame,
        )


@pytest.mark.parametrize(
    ("times", "frames", "stable"),
    [
        ([10.0] * 20, 20, True),
        ([50.0] * 10 + [20.0] * 10 + [10.0] * 20, 40, True),
        ([1.1**n for n in range(300)], 200, False),
    ],
)
def test_warm_up_lasts_until_two_medians_agree(
    times: list[float], frames: int, stable: bool, image: Path
) -> None:
    clock = Clock(times)
    found = warm_up(clock, [read_frame(image)])  # type: ignore[arg-type]
    assert (found.frames, found.stable, clock.taken) == (frames, stable, frames)


def test_every_stage_of_the_path_that_flies_is_sampled(
    vocabulary: Any, image: Path, tmp_path: Path
) -> None:
    backend = FakeBackend(64, 96)
    with Segmenter(backend, load_spec(64, 96), vocabulary) as segmenter:
        taken = sample(segmenter, [image], tmp_path / "out", lambda done, _: done < 7)
    assert list(taken.stages) == ["read", "prepare", "infer", "postprocess", "write"]
    assert all(len(values) == 7 for values in (*taken.stages.values(), taken.ready, taken.at))
    for index, total in enumerate(taken.total):
        assert total == pytest.approx(sum(v[index] for v in taken.stages.values()))
        assert taken.ready[index] == pytest.approx(total - taken.stages["write"][index])
    assert [p.name for p in (tmp_path / "out").glob("*.png")] == ["frame.png"]


def load_spec(height: int, width: int) -> Any:
    from segclip_deploy.artifacts.bundle import InputSpec

    return InputSpec(height=height, width=width)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_layers_are_those_of_the_model(target: str, tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    tile = load_golden(bundle.golden_path).tiles[0]
    settings = {"threads": 1}
    with TARGETS[target].open(bundle.model_path, **settings) as backend:
        runs = TARGETS[target].time_layers(bundle.model_path, backend, tile, settings)
    assert len(runs) == 30
    layers = layer_medians(runs, [cost.block for cost in bundle.record.blocks])
    assert [layer.ms for layer in layers] == sorted((layer.ms for layer in layers), reverse=True)
    blocks = {layer.block for layer in layers}
    assert {"encoder.stage1", "cff.16.read", "head", "graph"} <= blocks
    adds = sum(layer.ms for layer in layers if layer.block == "engine")
    assert adds < 0.2 * sum(layer.ms for layer in layers)


# ---- the command


def test_a_profile_is_printed_drawn_and_compared(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "p"
    command = ("profile", tiny_bundle, "--samples", 10, "--deadline-ms", 1e-3, "--threads", 1)
    result = call(*command, "-o", out)
    assert result.exit_code == 0, result.stderr
    assert "encoder.stage1" in result.stdout
    assert "deadline 0.001 ms: 100.0% missed" in result.stdout
    assert "ONNX Runtime" in result.stdout
    assert "window (1, 64, 96, 3), 1.00 times the pixels needed" in result.stdout
    assert "hint" not in result.stderr
    with Image.open(out / "profile.png") as picture:
        assert picture.size[0] > 800
    record = json.loads((out / "profile.json").read_text())
    assert record["conditions"]["images"] == "golden tiles"
    assert record["pixel_ratio"] == 1
    assert record["conditions"]["load"].keys() == {"before", "after"}
    assert len(record["samples"]["ready"]) >= 10
    stages = {name: values["p50"] for name, values in record["stages"].items()}
    assert stages["infer"] > 0

    same = call("compare", out / "profile.json", out / "profile.json", "--json")
    assert {v for r in json.loads(same.stdout)["ratios"].values() for v in r.values()} == {1.0}
    record["conditions"]["threads"] = 8
    record["conditions"]["device"]["power_mode"] = "15W"
    (tmp_path / "other.json").write_text(json.dumps(record))
    refused = call("compare", out / "profile.json", tmp_path / "other.json")
    assert refused.exit_code == 3
    assert "power mode is None and 15W; threads is 1 and 8" in refused.stderr
    forced = call("compare", out / "profile.json", tmp_path / "other.json", "--force")
    assert forced.exit_code == 0
    assert "unlike: threads is 1 and 8" in forced.stderr
    (tmp_path / "none.json").write_text("{}")
    assert "not a profile" in call("compare", out / "profile.json", tmp_path / "none.json").stderr


def test_a_soak_goes_on_for_its_time(tiny_bundle: Path, image: Path) -> None:
    found = profile_engine(tiny_bundle, [image], samples=10, soak_s=1.0)
    assert found.samples.at[-1] >= 0.9
    assert found.conditions.images == (str(image),)


def test_a_profile_of_frames_that_windows_fit_badly_says_so(
    tiny_bundle: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_MOST", 10)  # nothing is timed here
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(tmp_path / "a.png")
    told: list[str] = []
    found = profile_engine(
        tiny_bundle,
        [tmp_path / "a.png", image],
        samples=10,
        report=lambda what, done, total: told.append(what) if not (done or total) else None,
    )
    pixels = (24 + 1) * 64 * 96, 300 * 300 + 64 * 96
    assert found.pixel_ratio == round(pixels[0] / pixels[1], 4)
    (hint,) = [line for line in told if line.startswith("hint: ")]
    assert hint.startswith("hint: windows of 64x96 (height first) compute 1.64 times the pixels of")
    assert hint.endswith("--frame 300x300")


def test_a_gpu_tells_its_copies_and_its_layers(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a stand-in: what is proven is our handling of events and profilers."""
    install(monkeypatch, tiny_bundle / "model.onnx")
    engine = build_engine(load_bundle(tiny_bundle), tmp_path / "e.engine")
    found = profile_engine(engine.path, samples=10)
    assert list(found.samples.stages) == list(measure.STAGES)
    assert [(one.name, one.block, one.ms) for one in found.layers] == [
        ("conv", "encoder.stage1", 1.5)
    ]
    assert found.memory.gpu == 2 << 30


def test_a_cold_start_is_that_of_a_new_process(tiny_bundle: Path, image: Path) -> None:
    (first,) = cold_starts(tiny_bundle, image, times=1)
    assert 50 < first < 60_000
    with pytest.raises(BadArtifact, match="a new process could not run it"):
        cold_starts(tiny_bundle / "nothing", image, times=1)


# ---- sensors and systems that are not here, by their files


def put_rails(root: Path, chip: str, *rails: tuple[str, int, int]) -> None:
    """Files of an INA3221: label, mV and mA of each channel."""
    monitor = root / f"sys/bus/i2c/drivers/ina3221/{chip}/hwmon/hwmon3"
    for index, (label, volts, amps) in enumerate(rails, start=1):
        put(monitor / f"in{index}_label", label + "\n")
        put(monitor / f"in{index}_input", f"{volts}\n")
        put(monitor / f"curr{index}_input", f"{amps}\n")


AGX_ORIN = (("VDD_GPU_SOC", 19000, 1000), ("VDD_CPU_CV", 19000, 500), ("VIN_SYS_5V0", 5000, 800))


def test_a_jetson_s_input_rail_is_read(tmp_path: Path) -> None:
    put_rails(tmp_path, "1-0040", ("VDD_IN", 5000, 2000), ("VDD_CPU_GPU_CV", 5000, 900))
    put(tmp_path / "sys/class/thermal/thermal_zone0/temp", "41500\n")
    put(tmp_path / "sys/class/thermal/thermal_zone1/temp", "47250\n")
    with PowerMeter(period=0.01, root=tmp_path) as meter:
        while len(meter.log().watts) < 3:
            pass
    log = meter.log()
    assert log.sensor == "INA3221 VDD_IN"
    assert set(log.watts) == {10.0}
    assert set(log.celsius) == {47.25}
    assert log.joules(3.0) == pytest.approx(30.0)


def test_an_agx_orin_is_the_sum_of_its_three_rails(tmp_path: Path) -> None:
    put_rails(tmp_path, "1-0040", *AGX_ORIN)
    # The power of the memory is in VIN_SYS_5V0 already.
    put_rails(tmp_path, "1-0041", ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 300))
    name, watts = find_wattmeter(tmp_path)
    assert name == "INA3221 VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    assert watts is not None
    assert watts() == pytest.approx(19 + 9.5 + 4)
    (rail,) = tmp_path.glob("sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr2_input")
    rail.unlink()
    assert watts() is None


@pytest.mark.parametrize("missing", range(3))
def test_a_part_of_an_agx_orin_is_not_taken_for_the_whole(missing: int, tmp_path: Path) -> None:
    put_rails(tmp_path, "1-0040", *(rail for i, rail in enumerate(AGX_ORIN) if i != missing))
    assert find_wattmeter(tmp_path) == (None, None)


@pytest.mark.parametrize("label", ["VIN\n", None])
def test_a_thor_s_input_is_read(label: str | None, tmp_path: Path) -> None:
    put_rails(tmp_path, "2-0040", ("VDD_GPU", 19000, 3000), ("VIN_SYS_5V0", 5000, 1300))
    sensor = tmp_path / "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon4"
    put(sensor / "power1_input", "23500000\n")
    if label:
        put(sensor / "label", label)
    name, watts = find_wattmeter(tmp_path)
    assert name == "INA238 VIN"
    assert watts is not None
    assert watts() == 23.5


def test_another_sensor_is_not_taken_for_the_input(tmp_path: Path) -> None:
    sensors = tmp_path / "sys/bus/i2c/drivers/ina238"
    put(sensors / "2-0044/hwmon/hwmon4/power1_input", "23500000\n")
    put(sensors / "2-0045/hwmon/hwmon5/power1_input", "300000000\n")
    assert find_wattmeter(tmp_path) == (None, None)  # which of the two?
    put(sensors / "2-0045/hwmon/hwmon5/label", "MOTORS\n")
    _, watts = find_wattmeter(tmp_path)
    assert watts is not None
    assert watts() == 23.5
    put(sensors / "2-0044/hwmon/hwmon4/label", "SERVOS\n")
    assert find_wattmeter(tmp_path) == (None, None)


def test_a_counter_of_energy_gives_watts(tmp_path: Path) -> None:
    counter = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    put(counter, "1000000")
    name, watts = find_wattmeter(tmp_path)
    assert name is not None
    assert "RAPL" in name
    assert watts is not None
    put(counter, "9000000")
    value = watts()
    assert value is not None
    assert value > 0
    put(counter, "0")  # it wraps around
    assert watts() is None


@pytest.mark.faults
def test_a_sensor_without_power_stops_no_meter(tmp_path: Path) -> None:
    """It answers EAGAIN, as the GPU's zone of a Jetson does whose GPU sleeps; an empty pipe does, too."""
    put(tmp_path / "sys/class/thermal/thermal_zone0/temp", "41500\n")
    asleep = tmp_path / "sys/class/thermal/thermal_zone1/temp"
    asleep.parent.mkdir()
    os.mkfifo(asleep)
    writer = os.open(asleep, os.O_RDWR)
    assert kernel_number(asleep) is None
    with PowerMeter(period=0.01, root=tmp_path) as meter:
        time.sleep(0.1)
    os.close(writer)
    assert len(meter.log().celsius) > 2
    assert set(meter.log().celsius) == {41.5}


def test_nothing_to_read_is_none_and_no_figure(tmp_path: Path) -> None:
    assert find_wattmeter(tmp_path) == (None, None)
    assert find_thermometer(tmp_path) is None
    with PowerMeter(period=0.01, root=tmp_path) as meter:
        pass
    assert meter.log().joules(1.0) is None


def test_conditions_say_what_is_there(tmp_path: Path) -> None:
    put(tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")
    put(tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1190400\n")
    put(tmp_path / "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1")
    put(tmp_path / "proc/device-tree/model", "NVIDIA Jetson Orin NX\0")
    found = device_conditions(tmp_path)
    assert found.governor == "powersave"
    assert found.cpu_mhz == 1190
    assert found.jetson is not None
    assert found.jetson.board == found.name == "NVIDIA Jetson Orin NX"
    assert found.jetson.l4t == "36.4.3"
    put(tmp_path / "proc/self/status", "VmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n")
    memory = find_memory(FakeBackend(64, 96), tmp_path)
    assert (memory.resident, memory.peak, memory.gpu) == (1 << 20, 2 << 20, None)


# ---- nothing is allocated in steady state


@pytest.mark.alone
@pytest.mark.parametrize("kind", [OnnxRuntimeBackend, OpenVinoBackend])
def test_inference_reuses_its_buffers_and_grows_no_memory(kind: Any, tiny_bundle: Path) -> None:
    backend: Backend = kind(tiny_bundle / "model.onnx", threads=1)
    pixels = np.zeros((1, 64, 96, 3), np.uint8)
    places: set[tuple[tuple[str, int], ...]] = set()

    def run(times: int) -> int:
        for _ in range(times):
            outputs = backend.infer({"image": pixels})
            places.add(tuple((name, a.ctypes.data) for name, a in outputs.items()))
        resident = find_memory(backend).resident
        assert resident is not None
        return resident

    before = run(200)
    after = run(800)
    assert len(places) == 1
    outputs = sum(math.prod(o.shape) * o.dtype.itemsize for o in backend.outputs)
    assert after - before < 100 * outputs  # of 800 that leaked one each
    backend.close()
