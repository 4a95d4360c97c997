"""`make gpu-check` on the fake driver, and what ends a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.runtime.targets.tensorrt.test_fake_driver import SITE
from tests.support.fake_tensorrt import install
from tests.support.helpers import call

SCRIPT = ROOT / "benchmarks" / "gpu_check.py"
ENGINES = {
    f"{library}-{p}"
    for library in ("tensorrt", "tensorrt_rtx")
    for p in ("fp32", "fp16", "int8", "labels")
}


@pytest.fixture
def kit(tiny_bundle: Path, open_bundle: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "kit"
    folder.mkdir()
    (folder / "fp32").symlink_to(tiny_bundle, target_is_directory=True)
    (folder / "blend").symlink_to(open_bundle, target_is_directory=True)
    return folder


@pytest.fixture
def driver() -> Path:
    if not list(SITE.glob("pycuda/_driver*.so")):
        pytest.skip(f"needs PyCUDA for the fake driver: python -m tests.fakecuda.build {SITE}")
    return SITE


def check(kit: Path, *words: object) -> tuple[int, dict[str, dict[str, Any]], str]:
    """The exit code, the recorded row of each step, and what was printed."""
    out = kit.parent / "gpu_check.json"
    command = [sys.executable, SCRIPT, "--kit", kit, "--out", out, *words]
    done = subprocess.run(
        [*map(str, command)], cwd=kit.parent, capture_output=True, text=True, check=False
    )
    rows = json.loads(out.read_text())["rows"]
    return done.returncode, {row["step"]: row for row in rows}, done.stdout


def test_the_dry_run_passes_every_step_that_needs_no_tensorrt(
    kit: Path, driver: Path, tiny_checkpoint: Path
) -> None:
    code, rows, said = check(kit, "--driver", driver, "--checkpoint", tiny_checkpoint)
    outcomes = {name: row["outcome"] for name, row in rows.items()}
    assert {n for n, outcome in outcomes.items() if outcome == "not run"} == ENGINES | {"tests"}
    assert {n for n, outcome in outcomes.items() if outcome == "failed"} == set(), said
    assert code == 0
    assert rows["tensorrt-fp32"]["why"] == "no TensorRT"
    assert "10 passed, 0 failed, 9 NOT run" in said
    assert "3 CUDA graphs" in rows["frames"]["name"]
    assert rows["frames"]["equal"] == rows["labels"]["equal"] == 1.0
    assert "labels by a kernel" in rows["labels"]["name"]
    assert "restart the process" in rows["illegal-address"]["said"]
    assert rows["illegal-address"]["code"] == 700


def test_what_fails_is_recorded_and_is_the_exit_code(kit: Path, driver: Path) -> None:
    (kit / "blend").unlink()
    steps = ("frames", "tensorrt-fp32")
    code, rows, _ = check(kit, "--driver", driver, "--only", *steps)
    assert [row["outcome"] for row in rows.values()] == ["passed", "failed", "not run"]
    assert "BadArtifact" in rows["frames"]["why"]
    assert code == 1
    assert check(kit, "--driver", driver, "--only", "tensorrt-fp32")[0] == 1  # it is not run


def test_without_a_gpu_nothing_is_run(tmp_path: Path) -> None:
    code, rows, _ = check(tmp_path / "kit")
    if rows["gpu"]["outcome"] == "passed":
        pytest.skip("a GPU is here")
    assert list(rows) == ["gpu"]
    assert "no NVIDIA driver" in rows["gpu"]["why"]
    assert code == 1


def test_a_step_that_hangs_or_crashes_is_ended_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_check

    words = ["--kit", str(tmp_path), "--here", "doctor"]
    hung = gpu_check.run_apart(words, 0.01, os.environ)
    assert (hung["outcome"], hung["why"]) == ("failed", "it took more than 0 s")
    crashed = gpu_check.run_apart([*words[:-1], "none"], 60, os.environ)
    assert (crashed["outcome"], crashed["why"]) == ("failed", "its process ended with exit code 1")
    assert "StopIteration" in crashed["output"][-1]
    # As PyCUDA does where it cannot release what a lost GPU held: passed, and then aborted.
    script = tmp_path / "step.py"
    passed = gpu_check._RESULT + '{"outcome": "passed"}'
    script.write_text(f"import os\nprint({passed!r}, flush=True)\nos.abort()\n")
    monkeypatch.setattr(gpu_check, "__file__", str(script))
    aborted = gpu_check.run_apart([], 60, os.environ)
    assert (aborted["outcome"], aborted["why"]) == ("failed", "its process ended with exit code -6")


def test_steps_for_which_no_time_is_left_are_not_run(tmp_path: Path) -> None:
    code, rows, _ = check(tmp_path / "kit", "--minutes", "0")
    assert {row["outcome"] for row in rows.values()} == {"not run"}
    assert code == 1


def test_an_engine_is_built_verified_scored_and_timed(
    kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_steps

    # Of another library, by the path of those that need a GPU.
    monkeypatch.setitem(gpu_steps.SUFFIXES, "onnxruntime", ".ort.onnx")
    found = gpu_steps.Check(kit, kit, fake_driver=False)
    row = gpu_steps.measure_engine("onnxruntime", "fp32", found)
    assert row["verify"]["passed"]
    assert 0 < row["host_share"] < 1
    assert 0 < row["evaluate"]["miou"] < 1
    assert row["build"]["target"] == "onnxruntime"


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_both_ways_of_making_labels_are_measured_alike(
    kit: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_steps

    install(monkeypatch, tiny_bundle / "model.onnx")
    sys.modules["tensorrt"].__spec__ = ModuleSpec("tensorrt", None)
    answers = {"evaluate": {"miou": 0.5}}  # which takes longer than all else

    def here(*words: object) -> Any:
        return answers.get(str(words[0])) or json.loads(call(*words, "--json").stdout)

    monkeypatch.setattr(gpu_steps, "call", here)
    (kit / "fp16").symlink_to(tiny_bundle, target_is_directory=True)
    found = gpu_steps.compare_label_makers("tensorrt", gpu_steps.Check(kit, kit, fake_driver=False))
    for maker in ("graph", "kernel"):
        assert found[maker]["build"]["built"]["labels"] == maker
        assert found[maker]["verify"]["passed"]
        assert found["stage_ms"][maker]["infer"] > 0
