from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.errors import BadArtifact
from segclip_deploy.runtime import build as build_module
from segclip_deploy.runtime.build import build_engine
from segclip_deploy.runtime.engine import (
    TARGETS,
    Target,
    open_engine,
    sidecar,
)
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from tests.support.fakes import FakeBackend
from tests.support.helpers import edited


def test_the_fastest_settings_are_stored_and_used_on_the_same_processor_only(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def open_backend(model: Path, **settings: Any) -> OnnxRuntimeBackend:
        assert settings["batches"] == range(1, 2)
        seen.append({k: v for k, v in settings.items() if k != "batches"})
        return OnnxRuntimeBackend(model, **settings)

    monkeypatch.setitem(TARGETS, "onnxruntime", Target(".ort.onnx", open_backend))
    path = tmp_path / "e.ort.onnx"
    record = build_engine(load_bundle(tiny_bundle), path).record
    times = record["build"]["search"]["median_ms"]
    assert f"threads={record['settings']['threads']}" == min(times, key=times.__getitem__)
    assert all(ms > 0 for ms in times.values())
    assert record["build"]["search"]["rounds"] == 7
    for threads, used in ((0, record["settings"]), (3, {"threads": 3})):
        open_engine(path, threads=threads)
        assert seen[-1] == used
    sidecar(path).write_text(
        json.dumps({**record, "device": {**record["device"], "cpu": "another"}})
    )
    open_engine(path)
    assert seen[-1] == {}


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
    found: list[set[str]] = []

    def search(_: Any, candidates: list[dict[str, Any]], __: Any) -> Any:
        found.append({c["precision"] for c in candidates})
        raise StopIteration

    monkeypatch.setattr(build_module, "precisions", lambda: ("f32", "bf16"))
    monkeypatch.setattr(build_module, "rank_settings", search)
    with pytest.raises(StopIteration):
        build_engine(bundle, tmp_path / "e.ov.onnx")
    assert found == [tried]


def test_the_fastest_provider_that_passes_is_taken(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in: the other providers need a GPU."""
    wrong = FakeBackend(64, 96)

    def open_backend(model: Path, *, batches: range, provider: str = "cpu", **more: Any) -> Any:
        return wrong if provider == "cuda" else OnnxRuntimeBackend(model, **more)

    monkeypatch.setitem(TARGETS, "onnxruntime", Target(".ort.onnx", open_backend))
    monkeypatch.setattr(build_module, "providers", lambda: ("cpu", "cuda"))
    monkeypatch.setattr(build_module, "has_gpu", lambda: True)
    record = build_engine(load_bundle(tiny_bundle), tmp_path / "e.ort.onnx").record
    times = record["build"]["search"]["median_ms"]
    assert min(times, key=times.__getitem__) == "provider=cuda"
    assert record["settings"].keys() == {"threads"}
    assert record["verified"]["passed"]


def test_a_provider_that_is_not_here_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(BadArtifact, match="CUDAExecutionProvider, which cannot be loaded here"):
        OnnxRuntimeBackend(tiny_bundle / "model.onnx", provider="cuda")
