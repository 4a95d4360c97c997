"""Every call of the driver fails in every way: one line of ours, and nothing hangs or is left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.errors import BadArtifact, DeviceLost, SegclipError
from segclip_deploy.runtime.open_engine import open_segmenter
from segclip_deploy.runtime.targets.tensorrt.tensorrt_backend import TensorRtBackend
from tests.conftest import EXAMPLE
from tests.fakecuda.conftest import SAID
from tests.fakecuda.engine import State
from tests.support.fakes import random_frame

pytestmark = pytest.mark.faults


class Fault(IntEnum):
    """CUresult. The last two spoil the context for the rest of the process."""

    OUT_OF_MEMORY = 2
    INVALID_CONTEXT = 201
    ILLEGAL_ADDRESS = 700
    LAUNCH_FAILED = 719


STICKY = (Fault.ILLEGAL_ADDRESS, Fault.LAUNCH_FAILED)
SWITCHES = ("cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2")  # a thread without its context is lost
FRAME = random_frame(64, 120)  # two windows


def meet(call: Callable[[], object]) -> tuple[Any, SegclipError | None]:
    """What a call gives, or our error, in one line. Any other exception fails the test."""
    try:
        return call(), None
    except SegclipError as error:
        met = error
    assert "\n" not in str(met)
    return None, met


@pytest.mark.parametrize("fault", Fault)
def test_every_call_of_a_frame_fails_in_one_line(engine: Path, state: State, fault: Fault) -> None:
    driver = state.driver
    with open_segmenter(engine) as segmenter:
        expected = segmenter.segment(FRAME).labels
        driver.watch()
        segmenter.segment(FRAME)
        calls = driver.calls()
    segmenter = None
    for number, name in enumerate(calls):
        if segmenter is None:
            segmenter = open_segmenter(engine)
            segmenter.segment(FRAME)
        fly = partial(meet, partial(segmenter.segment, FRAME))
        driver.inject(number, fault)
        found, error = fly()
        assert driver.fired() == 1, name
        after, again = fly()
        if fault in STICKY or name in SWITCHES:
            if error is None:  # the frame was done; the next one is refused
                assert name == "cuCtxPopCurrent_v2"
                np.testing.assert_array_equal(found.labels, expected)
            for one in filter(None, (error, again)):
                assert isinstance(one, DeviceLost), (name, one)
                assert str(one).endswith("restart the process")
            assert again is not None, name
            segmenter.close()
            segmenter = fly = error = again = one = None
            state.restart()
        else:  # the next frame is right
            assert isinstance(error, BadArtifact), (name, error)
            assert "the GPU refuses it (cu" in str(error)
            np.testing.assert_array_equal(after.labels, expected)
            assert driver.depth() == 0, name
    SAID.append(f"{fault.name} at each of {len(calls)} calls of a frame: one line each")


@pytest.mark.parametrize("fault", Fault)
def test_every_call_of_opening_and_closing_fails_in_one_line(
    engine: Path, bundle: Bundle, state: State, fault: Fault
) -> None:
    driver = state.driver

    def fly() -> int:
        backend = TensorRtBackend(engine, target="tensorrt", batches=bundle.input.batches)
        opening = len(driver.calls())
        backend.close()
        return opening

    driver.watch()
    opening = fly()
    calls = driver.calls()
    for number, name in enumerate(calls):
        driver.inject(number, fault)
        _, error = meet(fly)
        assert driver.fired() == 1, (number, name)
        if fault in STICKY and number < opening and name not in SWITCHES:
            assert isinstance(error, DeviceLost), (number, name)
        releases = any(word in name for word in ("Free", "Destroy", "Unload"))
        if not (fault in STICKY or name in SWITCHES or releases):
            assert state.left() == {}, (number, name)
        else:
            state.restart()
    state.restart()
    with open_segmenter(engine) as segmenter:  # as if nothing had been
        segmenter.segment(FRAME)
    SAID.append(f"{fault.name} at each of {len(calls)} calls of opening and closing: one line each")


def test_a_launch_that_fails_is_one_line_and_the_next_frame_is_right(
    engine: Path, state: State
) -> None:
    with open_segmenter(engine) as segmenter:
        expected = segmenter.segment(FRAME).labels
        state.driver.inject(0, Fault.OUT_OF_MEMORY, "cuGraphLaunch")
        with pytest.raises(BadArtifact, match="refuses it \\(cuGraphLaunch failed: CUDA_ERROR"):
            segmenter.segment(FRAME)
        np.testing.assert_array_equal(segmenter.segment(FRAME).labels, expected)


def test_arrays_stay_readable_when_the_gpu_is_lost(engine: Path, state: State) -> None:
    segmenter = open_segmenter(engine)
    kept = segmenter.backend.infer({"image": np.zeros((1, 64, 96, 3), np.uint8)})["labels"]
    before = kept.copy()
    state.driver.inject(0, Fault.ILLEGAL_ADDRESS, "cuStreamSynchronize")
    with pytest.raises(DeviceLost):
        segmenter.segment(FRAME)
    segmenter.close()
    np.testing.assert_array_equal(kept, before)


KERNEL = ("cuModuleLoadDataEx", "cuModuleGetFunction")


@pytest.mark.parametrize("name", KERNEL)
@pytest.mark.parametrize("bundle", ["one", "open"], indirect=True)
def test_a_kernel_that_does_not_load_leaves_numpy_and_the_name_says_why(
    engine: Path, bundle: Bundle, state: State, name: str
) -> None:
    state.driver.inject(0, 218, name)  # CUDA_ERROR_INVALID_PTX
    with open_segmenter(bundle.path) as reference, open_segmenter(engine) as flown:
        assert f"blended logits decoded by NumPy ({name} failed" in flown.backend.name
        expected = reference.segment(FRAME).labels
        np.testing.assert_array_equal(flown.segment(FRAME).labels, expected)


@pytest.mark.parametrize("name", KERNEL)
@pytest.mark.parametrize("bundle", ["bare"], indirect=True)
def test_without_the_kernel_that_makes_its_labels_an_engine_is_refused_in_one_line(
    engine: Path, state: State, name: str
) -> None:
    state.driver.inject(0, 218, name)
    _, error = meet(partial(open_segmenter, engine))
    assert isinstance(error, BadArtifact)
    assert f"refuses the kernel that makes its labels and margin ({name} failed" in str(error)
    assert str(error).endswith("build it with --labels graph")
    assert state.left() == {}


def test_what_tensorrt_does_not_enqueue_is_one_line(engine: Path, state: State) -> None:
    state.refuses = True
    with pytest.raises(BadArtifact, match="cannot be run"):
        open_segmenter(engine)
    assert state.left() == {}


@pytest.mark.parametrize("fault", ["cuGraphLaunch", "cuCtxPopCurrent_v2"])
@pytest.mark.parametrize("bundle", ["one", "open"], indirect=True)
def test_a_gpu_that_is_lost_ends_the_command_with_one_line_and_4(
    engine: Path, bundle: Bundle, tmp_path: Path, fault: str
) -> None:
    """PyCUDA aborts a process that ends with a context on a thread."""
    words = [sys.executable, "-m", "tests.fakecuda.lost", bundle.path, fault]
    words += ["run", engine, EXAMPLE / "images" / "tile8_part3.jpg", "-o", tmp_path / "out"]
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, timeout=60
    )
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert done.returncode == 4, done.stderr
    assert len(errors) == 1, done.stderr
    assert errors[0].endswith("restart the process")
    assert "Traceback" not in done.stderr
    assert "PyCUDA" not in done.stderr
