from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.engine import load_engine, record_path
from segclip_deploy.artifacts.engine_record import ENGINE
from segclip_deploy.artifacts.records import replace
from segclip_deploy.errors import BadArtifact
from segclip_deploy.runtime.build_engine import build_engine
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.open_engine import open_engine
from segclip_deploy.runtime.registry import TARGETS
from segclip_deploy.runtime.targets import onnxruntime, openvino
from segclip_deploy.runtime.targets.base import BuildOptions
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntime, OnnxRuntimeBackend
from segclip_deploy.runtime.targets.openvino import OpenVino
from tests.support.fakes import FakeBackend
from tests.support.helpers import call, edited


class Spied(OnnxRuntime):
    """ONNX Runtime, which remembers the settings of each ``open``, and may be wrong on a GPU."""

    def __init__(self, answers: Mapping[str, Backend] | None = None) -> None:
        self.answers, self.seen = answers or {}, []

    def open(self, model: Path, *, sha256: str | None = None, **settings: Any) -> Backend:
        assert settings.pop("batches") == range(1, 2)
        self.seen.append(settings)
        wrong = self.answers.get(settings.get("provider", "cpu"))
        return wrong or super().open(model, **settings)


def test_the_fastest_settings_are_stored_and_used_on_the_same_processor_only(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spied = Spied()
    monkeypatch.setitem(TARGETS, "onnxruntime", spied)
    path = tmp_path / "e.ort.onnx"
    record = build_engine(load_bundle(tiny_bundle), path).record
    search, settings = record.built.build.search, record.built.settings
    times = search.median_ms
    assert f"threads={settings['threads']}" == min(times, key=times.__getitem__)
    assert all(ms > 0 for ms in times.values())
    assert search.rounds == 7
    for threads, used in ((0, settings), (3, {"threads": 3})):
        open_engine(path, threads=threads).backend.close()
        assert spied.seen[-1] == used
    device = replace(record.built.device, cpu="another")
    ENGINE.write(record_path(path), replace(record, built=replace(record.built, device=device)))
    open_engine(path).backend.close()
    assert spied.seen[-1] == {}


@pytest.mark.parametrize(("precision", "tried"), [("fp32", {"f32"}), ("int8", {"f32", "bf16"})])
def test_bf16_is_never_tried_for_an_fp32_bundle(
    precision: str,
    tried: set[str],
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = edited(
        tiny_bundle, tmp_path / "b", onnx.load(tiny_bundle / "model.onnx"), precision=precision
    )
    monkeypatch.setattr(openvino, "precisions", lambda _device: ("f32", "bf16"))
    candidates = OpenVino().candidates(bundle, BuildOptions())
    assert {settings["precision"] for settings in candidates} == tried


def test_the_fastest_provider_that_passes_is_taken(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in that need not compute its answer: the other providers need a GPU."""
    wrong = FakeBackend(64, 96)
    answer = wrong.infer({"image": np.zeros((1, 64, 96, 3), np.uint8)})
    monkeypatch.setattr(wrong, "infer", lambda _: answer)
    monkeypatch.setitem(TARGETS, "onnxruntime", Spied({"cuda": wrong}))
    monkeypatch.setattr(onnxruntime, "providers", lambda: ("cpu", "cuda"))
    monkeypatch.setattr(onnxruntime, "has_gpu", lambda: True)
    built = build_engine(load_bundle(tiny_bundle), tmp_path / "e.ort.onnx").record.built
    times = built.build.search.median_ms
    assert min(times, key=times.__getitem__) == "provider=cuda"
    assert built.settings.keys() == {"threads"}
    assert built.verified.passed
    assert wrong.closed


def test_a_provider_that_is_not_here_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(BadArtifact, match="CUDAExecutionProvider, which cannot be loaded here"):
        OnnxRuntimeBackend(tiny_bundle / "model.onnx", provider="cuda")


# ---- devices


@pytest.mark.parametrize("device", ["CPU", "AUTO"])
def test_openvino_runs_where_it_is_told_and_remembers(
    device: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "e.ov.onnx"
    assert call("build-engine", tiny_bundle, "-o", path, "--device", device).exit_code == 0
    assert load_engine(path).record.arguments == ("--device", device)
    with open_engine(path).backend as backend:
        assert f" {device} " in backend.name
    assert call("verify", path).exit_code == 0


def test_a_device_that_is_not_here_is_refused_with_openvinos_own_list(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    here = ov.Core().available_devices
    absent = next(d for d in ("NPU", "GPU") if not any(name.startswith(d) for name in here))
    path = tmp_path / "e.ov.onnx"
    refused = call("build-engine", tiny_bundle, "-o", path, "--device", absent)
    assert refused.exit_code == 1
    assert f"OpenVINO finds no {absent} here, only {', '.join(here)}; segclip" in refused.stderr
    assert list(tmp_path.iterdir()) == []
    build_engine(load_bundle(tiny_bundle), path)
    record = load_engine(path).record
    settings = {"device": absent, "precision": "f32"}
    ENGINE.write(record_path(path), replace(record, built=replace(record.built, settings=settings)))
    moved = call("verify", path)
    assert moved.exit_code == 1
    assert f"{path}: OpenVINO finds no {absent} here" in moved.stderr


@pytest.mark.parametrize(
    ("name", "device", "said"),
    [
        ("e.ov.onnx", "DLA", "'DLA' is no device of openvino (one of CPU, AUTO, GPU, NPU)"),
        ("e.ort.onnx", "CPU", "'CPU' is no device of onnxruntime (none: it has no choice)"),
    ],
)
def test_a_device_that_the_target_does_not_know_is_refused(
    name: str, device: str, said: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    refused = call("build-engine", tiny_bundle, "-o", tmp_path / name, "--device", device)
    assert refused.exit_code == 1
    assert said in refused.stderr
