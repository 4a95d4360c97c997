from __future__ import annotations

import json
import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from segclip_deploy._optional import install_command
from segclip_deploy.cli import main
from tests.support.fake_tensorrt import remove_driver


def diagnosis() -> dict:
    return json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)


def test_doctor_is_right_on_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    remove_driver(monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    found = diagnosis()
    assert found["gpu"] is found["jetson"] is None
    assert found["packages"]["onnxruntime"] == version("onnxruntime")
    assert found["packages"]["openvino"] == version("openvino")
    assert "CPUExecutionProvider" in found["onnxruntime_providers"]
    assert found["packages"]["tensorrt"] is None
    assert 0 < found["system"]["memory_free"] <= found["system"]["memory"]
    assert found["system"]["disk_free"] > 0
    can = {name: (t["build"], t["run"]) for name, t in found["targets"].items()}
    assert can["onnxruntime"] == can["openvino"] == (True, True)
    assert can["tensorrt"] == (False, False)
    ahead = found["packages"]["tensorrt_rtx"] is not None
    assert can["tensorrt-rtx"] == (ahead, False)
    fixes = [obstacle["fix"] for obstacle in found["targets"]["tensorrt"]["obstacles"]]
    assert install_command("tensorrt") in fixes
    assert all(o["fix"] for t in found["targets"].values() for o in t["obstacles"])


@pytest.mark.gstreamer
def test_doctor_says_whether_gstreamer_can_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"1\.\d+\.\d+", diagnosis()["packages"]["gstreamer"])
    monkeypatch.setitem(sys.modules, "gi", None)
    assert diagnosis()["packages"]["gstreamer"] is None


def test_what_is_not_installed_comes_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("openvino", "tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    said = CliRunner().invoke(main, ["doctor"]).stdout
    for extra in ("openvino", "tensorrt", "rtx"):
        assert install_command(extra) in said


@pytest.mark.parametrize(
    ("target", "module", "extra"),
    [
        ("tensorrt", "tensorrt", "tensorrt"),
        ("tensorrt", "pycuda", "tensorrt"),
        ("tensorrt-rtx", "tensorrt_rtx", "rtx"),
        ("tensorrt-rtx", "pycuda", "rtx"),
        ("openvino", "openvino", "openvino"),
    ],
)
@pytest.mark.faults
def test_a_missing_package_is_in_the_extra_of_its_target(
    target: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"{module}.driver", raising=False)
    obstacles = diagnosis()["targets"][target]["obstacles"]
    (fix,) = (one["fix"] for one in obstacles if f"'{module}" in one["what"])
    assert fix == install_command(extra)
    assert any(re.match(rf"{package(module)}\W", need) for need in extras()[extra])


def package(module: str) -> str:
    """Its name for pip."""
    return module.replace("_", "-")


def extras() -> dict[str, list[str]]:
    """What each extra of the package asks for."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["optional-dependencies"]


@pytest.mark.parametrize("extra", ["tensorrt", "rtx", "jetson"])
@pytest.mark.parametrize(("python", "cuda"), [("3.10", "12.9.10"), ("3.12", "13.5.0")])
@pytest.mark.faults
def test_cuda_graphs_come_with_every_target_that_has_them(
    extra: str, python: str, cuda: str
) -> None:
    """JetPack 6 has CUDA 12 and Python 3.10, JetPack 7 CUDA 13 and Python 3.12."""
    asked = [Requirement(need) for need in extras()[extra] if need.startswith("cuda-bindings")]
    here = {"python_version": python}
    (need,) = [one for one in asked if one.marker is None or one.marker.evaluate(here)]
    assert need.specifier.contains(cuda)
    if extra == "jetson":
        other = {"12.9.10": "13.5.0", "13.5.0": "12.9.10"}[cuda]
        assert not need.specifier.contains(other)


def test_a_jetson_is_told_to_take_tensorrt_from_jetpack(monkeypatch: pytest.MonkeyPatch) -> None:
    from segclip_deploy.runtime import doctor
    from segclip_deploy.runtime.targets.device import Jetson
    from segclip_deploy.runtime.targets.tensorrt import library

    for module in (doctor, library):
        monkeypatch.setattr(module, "find_jetson", lambda: Jetson("Orin", "36.4.3", None))
    monkeypatch.setattr(
        doctor,
        "command_output",
        lambda *command: "NV Power Mode: 15W\n2" if command[0] == "nvpmodel" else None,
    )
    for name in ("tensorrt", "tensorrt_rtx", "pycuda"):
        monkeypatch.setitem(sys.modules, name, None)
    said = CliRunner().invoke(main, ["doctor"]).stdout
    assert "L4T 36.4.3" in said
    assert "NV Power Mode: 15W 2" in said
    assert "not told by jetson_clocks (needs root)" in said
    assert "TensorRT comes with JetPack, not from pip" in said
    assert install_command("jetson") in said
    assert "segclip-deploy[tensorrt]" not in said
