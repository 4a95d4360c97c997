"""The whole GPU path on the driver without a GPU: build, prove, fly, measure, close."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.engine_record import GpuDevice
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.runtime.inference.windows import decode
from segclip_deploy.runtime.open_engine import open_engine, open_segmenter
from segclip_deploy.runtime.registry import TARGETS
from tests.fakecuda.conftest import SAID
from tests.fakecuda.engine import State
from tests.support.fakes import random_frame


@pytest.mark.parametrize("shared", [False, True], ids=["copied", "zero-copy"])
def test_an_engine_says_what_onnx_runtime_says(
    engine: Path, bundle: Bundle, state: State, shared: bool
) -> None:
    if shared:
        state.driver.integrate()
    frame = random_frame(150, 220)
    with open_segmenter(bundle.path) as reference, open_segmenter(engine) as flown:
        name = flown.backend.name
        assert ("zero-copy" in name) == shared
        assert "NumPy" not in name
        count = len(bundle.input.batches)
        assert ("3 CUDA graphs" if count == 3 else "CUDA graph") in name
        for _ in range(2):
            expected, found = reference.segment(frame), flown.segment(frame)
            np.testing.assert_array_equal(found.labels, expected.labels)
            if expected.margin is not None:
                assert found.margin is not None
                assert np.abs(expected.margin.astype(int) - found.margin).max() <= 1
        for batch in bundle.input.batches:
            pixels = np.random.default_rng(batch).integers(0, 256, (batch, 64, 96, 3), np.uint8)
            found = {k: v.copy() for k, v in flown.backend.infer({"image": pixels}).items()}
            for output, values in reference.backend.infer({"image": pixels}).items():
                np.testing.assert_array_equal(found[output], values)
        times = flown.backend.stage_ms()
        assert list(times) == ["copy_in", "infer", "copy_out"]
        assert times["infer"] > times["copy_in"] >= 0
        layers = flown.backend.layer_ms(np.zeros((64, 96, 3), np.uint8), runs=3)
        assert layers == [{"conv": 1.5}] * 3
        assert flown.backend._context.profiler is None
        assert 2 << 30 < flown.backend.memory_taken() < 3 << 30
    assert state.left() == {}


def test_a_network_without_a_bundle_is_compiled_and_run(bundle: Bundle, state: State) -> None:
    target = TARGETS["tensorrt"]
    assert isinstance(target.device(), GpuDevice)
    nvidia = bundle.for_scheme(Scheme.TENSORRT)
    image = np.zeros((1, 64, 96, 3), np.uint8)
    with open_segmenter(bundle.path) as reference:
        expected = reference.backend.infer({"image": image})["labels"].copy()
    with target.open_unproven(nvidia.model_path) as backend:
        np.testing.assert_array_equal(backend.infer({"image": image})["labels"], expected)
    assert state.left() == {}


def test_a_flight_launches_graphs_only(engine: Path, bundle: Bundle, state: State) -> None:
    with open_segmenter(engine) as flown:
        frame = random_frame(150, 220)
        flown.segment(frame)
        state.driver.watch()
        flown.segment(frame)
        frames = state.driver.calls()
        state.driver.watch()
        for batch in bundle.input.batches:
            flown.backend.infer({"image": np.zeros((batch, 64, 96, 3), np.uint8)})
        calls = state.driver.calls()
    assert calls.count("cuGraphLaunch") == len(bundle.input.batches)
    assert "cuLaunchHostFunc" not in frames + calls
    assert calls.count("cuCtxPushCurrent_v2") == calls.count("cuCtxPopCurrent_v2")
    SAID.append(f"{len(frames)} calls a frame of {len(bundle.input.batches)} batch sizes")


@pytest.mark.parametrize("bundle", ["bare"], indirect=True)
def test_the_kernel_makes_labels_inside_the_graph_and_one_copy_brings_them_out(
    engine: Path, bundle: Bundle, state: State
) -> None:
    rng = np.random.default_rng(0)
    with open_engine(engine).backend as backend:
        assert "labels by a kernel" in backend.name
        for batch in bundle.input.batches:
            pixels = rng.integers(0, 256, (batch, 64, 96, 3), np.uint8)
            state.driver.watch()
            found = backend.infer({"image": pixels})
            calls = state.driver.calls()
            assert calls.count("cuMemcpyDtoHAsync_v2") == calls.count("cuGraphLaunch") == 1
            assert "cuLaunchKernel" not in calls  # the graph has it
            logits = state.reference().infer({"image": pixels})["logits"]
            expected = [decode(one, margin=True) for one in logits]
            for output, values in zip(
                ("labels", "margin"), zip(*expected, strict=True), strict=True
            ):
                np.testing.assert_array_equal(found[output], values)


def test_what_cannot_be_recorded_is_launched_plainly(
    engine: Path, bundle: Bundle, state: State
) -> None:
    with open_engine(bundle.path).backend as reference:
        state.driver.inject(0, 900, "cuStreamBeginCapture_v2")
        with open_engine(engine).backend as backend:
            assert "plain launches (cuStreamBeginCapture: " in backend.name
            for batch in bundle.input.batches:
                pixels = np.full((batch, 64, 96, 3), 9 * batch, np.uint8)
                found = {k: v.copy() for k, v in backend.infer({"image": pixels}).items()}
                for name, values in reference.infer({"image": pixels}).items():
                    np.testing.assert_array_equal(found[name], values)
    assert state.left() == {}


def test_threads_and_several_segmenters_share_one_context(engine: Path, state: State) -> None:
    """Opened in one thread, flown in a second, closed in a third, beside another."""
    frame = random_frame(150, 220)
    first = open_segmenter(engine)
    expected = first.segment(frame).labels
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two, ThreadPoolExecutor(1) as three:
        second = one.submit(open_segmenter, engine).result(60)
        found = two.submit(second.segment, frame).result(60).labels
        np.testing.assert_array_equal(found, expected)
        three.submit(second.close).result(60)
        np.testing.assert_array_equal(first.segment(frame).labels, expected)
    first.close()
    assert state.left() == {}
    assert state.driver.depth() == 0


def test_closing_frees_all_at_once_and_again_does_nothing(
    engine: Path, bundle: Bundle, state: State
) -> None:
    segmenter = open_segmenter(engine)
    frame = random_frame(150, 220)
    segmenter.segment(frame)
    kept = segmenter.backend.infer({"image": np.zeros((1, 64, 96, 3), np.uint8)})["labels"]
    before = kept.copy()
    on_gpu = segmenter.backend.decode
    segmenter.close()
    assert (on_gpu is not None) == ("logits" in bundle.outputs)
    assert state.left() == {"pinned": 1}  # of the array that is kept
    segmenter.close()
    with pytest.raises(ValueError, match="is closed"):
        segmenter.backend.infer({"image": np.zeros((1, 64, 96, 3), np.uint8)})
    if on_gpu is not None:
        with pytest.raises(ValueError, match="is closed"):
            on_gpu(np.zeros((5, 16, 24), np.float32), margin=False)
    np.testing.assert_array_equal(kept, before)
    del kept
    assert state.left() == {}


def test_many_flights_leave_nothing(engine: Path, state: State) -> None:
    for _ in range(40):
        with open_engine(engine).backend as backend:
            backend.infer({"image": np.zeros((1, 64, 96, 3), np.uint8)})
    assert state.left() == {}
    counted = sum(state.driver.alive().values()) - sum(state.before.values())
    SAID.append(f"40 flights opened and closed: {counted} objects left")
