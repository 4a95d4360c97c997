"""How a TensorRT plan is launched: as a CUDA graph or plainly, through one memory or two.

A stand-in takes the place of the GPU: what is proven is our handling, on the path that flies.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.errors import BadArtifact, MissingDependency
from segclip_deploy.runtime.build import build_engine
from segclip_deploy.runtime.engine import open_engine, open_segmenter
from tests.support.fake_tensorrt import install
from tests.support.fakes import random_frame

PIXELS = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_every_way_to_launch_says_the_same(
    shared: bool,
    recorded: bool,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = install(monkeypatch, tiny_bundle / "model.onnx")
    state.shared, state.recorded = shared, recorded
    engine = build_engine(load_bundle(tiny_bundle), tmp_path / "e.engine")
    backend = open_engine(engine.path).backend
    how = "CUDA graph" if recorded else "plain launches (cuStreamBeginCapture: NOT_PERMITTED)"
    assert backend.name == f"TensorRT 10.3.0, Orin, {how}" + ", zero-copy" * shared
    state.launches.clear()
    reference = open_engine(tiny_bundle).backend
    for pixels in (PIXELS, 255 - PIXELS):
        expected = reference.infer({"image": pixels})
        for name, values in backend.infer({"image": pixels}).items():
            np.testing.assert_array_equal(values, expected[name])
    assert state.launches == ["graph" if recorded else "plain"] * 2
    times = backend.stage_ms()
    assert list(times) == ["copy_in", "infer", "copy_out"]
    assert times["infer"] > times["copy_in"] >= 0


def test_blended_logits_are_decoded_where_the_engine_runs_or_the_name_says_where(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tiny_bundle / "model.onnx")
    engine = build_engine(load_bundle(tiny_bundle), tmp_path / "e.engine")
    frame = random_frame(150, 220)
    with open_segmenter(tiny_bundle) as reference:
        expected = reference.segment(frame).labels
    with open_segmenter(engine.path) as flown:
        decoded = []
        decode = flown._decode
        monkeypatch.setattr(
            flown, "_decode", lambda *a, **k: (decoded.append(1), decode(*a, **k))[1]
        )
        np.testing.assert_array_equal(flown.segment(frame).labels, expected)
        assert decoded
        assert "NumPy" not in flown.backend.name

    def absent(stream: object) -> None:
        raise MissingDependency("labelling on the GPU needs pycuda")

    monkeypatch.setattr("segclip_deploy.runtime.targets.tensorrt.backend.GpuDecoder", absent)
    with open_segmenter(engine.path) as flown:
        told = "blended logits decoded by NumPy (labelling on the GPU needs pycuda)"
        assert told in flown.backend.name
        np.testing.assert_array_equal(flown.segment(frame).labels, expected)


def test_what_the_gpu_refuses_is_one_line(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tiny_bundle / "model.onnx")
    engine = build_engine(load_bundle(tiny_bundle), tmp_path / "e.engine")
    import pycuda.driver as cuda

    def full(size: int) -> None:
        raise cuda.Error("cuMemAlloc failed: out of memory")

    monkeypatch.setattr(cuda, "mem_alloc", full)
    with pytest.raises(BadArtifact, match=r"refuses it \(cuMemAlloc failed") as caught:
        open_engine(engine.path)
    assert str(caught.value).startswith(str(engine.path))
    assert "see what else uses the GPU" in str(caught.value)
