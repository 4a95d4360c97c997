"""The Segmenter around engines whose answers are known."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.runtime.inference.backend import TensorSpec
from segclip_deploy.runtime.inference.frame import Frame
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.inference.windows import labels_of
from tests.support.fakes import FakeBackend, classes_of, logits_of, random_frame

# The same examples on every run, and no deadline: the machine may be busy.
PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)

DUBAI = load_vocabulary("dubai")
SIZES = st.integers(1, 200)
INPUTS = st.sampled_from([(64, 64), (64, 96)])


def segmenter(
    height: int = 64,
    width: int = 64,
    batch: int = 1,
    *,
    logits: bool = False,
    overlap: int | None = None,
) -> Segmenter:
    backend = FakeBackend(height, width, batch, logits=logits)
    return Segmenter(backend, InputSpec(height, width, batch), DUBAI, overlap=overlap)


def blended(pixels: NDArray[np.uint8], least: tuple[int, int]) -> NDArray[np.uint8]:
    """The labels of one logit map over the whole frame, mirrored to the grid as documented."""
    height, width = pixels.shape[:2]
    below = max(least[0] - height, -height % 4)
    right = max(least[1] - width, -width % 4)
    padded = np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="reflect")
    return labels_of(logits_of(padded))[:height, :width]


@PROPERTY
@given(size=st.tuples(SIZES, SIZES), window=INPUTS, overlap=st.sampled_from([None, 0, 12, 60]))
def test_a_per_pixel_engine_labels_every_pixel_of_any_frame(
    size: tuple[int, int], window: tuple[int, int], overlap: int | None
) -> None:
    frame = random_frame(*size)
    result = segmenter(*window, overlap=overlap).segment(frame)
    assert result.labels.dtype == np.uint8
    np.testing.assert_array_equal(result.labels, classes_of(frame.pixels))


@PROPERTY
@given(size=st.tuples(SIZES, SIZES), window=INPUTS, overlap=st.sampled_from([None, 0, 12, 60]))
def test_windows_of_logits_join_as_if_the_engine_had_seen_the_whole_frame(
    size: tuple[int, int], window: tuple[int, int], overlap: int | None
) -> None:
    frame = random_frame(*size)
    result = segmenter(*window, logits=True, overlap=overlap).segment(frame)
    assert result.labels.dtype == np.uint8
    np.testing.assert_array_equal(result.labels, blended(frame.pixels, window))


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize(
    ("size", "windows"), [((64, 96), 1), ((5, 7), 1), ((65, 96), 2), ((160, 176), 6)]
)
def test_a_frame_takes_as_many_windows_as_it_needs(
    size: tuple[int, int], windows: int, logits: bool
) -> None:
    assert segmenter(64, 96, logits=logits).segment(random_frame(*size)).windows == windows


@PROPERTY
@given(size=st.tuples(SIZES, SIZES), batch=st.integers(2, 5), logits=st.booleans())
def test_a_batch_labels_as_single_windows_do(
    size: tuple[int, int], batch: int, logits: bool
) -> None:
    frame = random_frame(*size)
    single = segmenter(logits=logits).segment(frame)
    batched = segmenter(batch=batch, logits=logits).segment(frame)
    assert batched.windows == single.windows
    np.testing.assert_array_equal(batched.labels, single.labels)


def test_a_label_map_outlives_the_next_frame() -> None:
    flyer = segmenter()
    frame = random_frame(64, 64)
    first = flyer.segment(frame)
    flyer.segment(random_frame(64, 64, seed=1))
    np.testing.assert_array_equal(first.labels, classes_of(frame.pixels))


def test_stage_times_are_not_negative_and_sum_to_the_total() -> None:
    class SlowBackend(FakeBackend):
        def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
            time.sleep(0.01)
            return super().infer(arrays)

    flyer = Segmenter(SlowBackend(64, 64), InputSpec(64, 64), DUBAI)
    started = time.perf_counter()
    result = flyer.segment(random_frame(100, 100))
    elapsed = 1e3 * (time.perf_counter() - started)
    times = result.times
    assert min(times.prepare, times.infer, times.postprocess) >= 0
    assert times.infer >= 10 * result.windows
    assert times.total == pytest.approx(times.prepare + times.infer + times.postprocess)
    assert times.total <= elapsed


def test_windows_overlap_by_what_was_planned_unless_another_is_asked_for() -> None:
    planned = InputSpec(64, 64, overlap=32)
    frame = random_frame(64, 100)
    flyer = Segmenter(FakeBackend(64, 64), planned, DUBAI)
    assert (flyer.overlap, flyer.segment(frame).windows) == (32, 3)
    asked = Segmenter(FakeBackend(64, 64), planned, DUBAI, overlap=0)
    assert (asked.overlap, asked.segment(frame).windows) == (0, 2)
    assert Segmenter(FakeBackend(64, 64), InputSpec(64, 64), DUBAI).overlap == 16


@pytest.mark.parametrize("overlap", [-4, 2, 64])
def test_an_overlap_that_windows_cannot_have_is_no_input(overlap: int) -> None:
    with pytest.raises(BadInput, match=f"overlap {overlap} is not a multiple of 4 from 0 to below"):
        InputSpec(96, 64, overlap=overlap)


@pytest.mark.parametrize("spec", [InputSpec(64, 96), InputSpec(96, 64), InputSpec(64, 64, batch=2)])
def test_an_engine_whose_input_is_not_that_of_its_record_is_refused(spec: InputSpec) -> None:
    with pytest.raises(BadArtifact, match="fake: the engine takes"):
        Segmenter(FakeBackend(64, 64), spec, DUBAI)


def test_an_engine_of_another_input_type_is_refused() -> None:
    backend = FakeBackend(64, 64)
    backend.inputs = (TensorSpec("image", (1, 64, 64, 3), np.dtype(np.float32)),)
    with pytest.raises(BadArtifact, match="float32"):
        Segmenter(backend, InputSpec(64, 64), DUBAI)


def test_an_engine_of_two_inputs_is_refused() -> None:
    backend = FakeBackend(64, 64)
    backend.inputs *= 2
    with pytest.raises(BadArtifact):
        Segmenter(backend, InputSpec(64, 64), DUBAI)


def test_an_engine_without_labels_or_logits_is_refused() -> None:
    backend = FakeBackend(64, 64)
    backend.outputs = (TensorSpec("scores", (1, 64, 64), np.dtype(np.uint8)),)
    with pytest.raises(BadArtifact, match="neither labels nor logits"):
        Segmenter(backend, InputSpec(64, 64), DUBAI)


@pytest.mark.parametrize("overlap", [-4, 2, 63, 64, 96])
def test_an_overlap_off_the_grid_or_too_large_is_refused(overlap: int) -> None:
    with pytest.raises(BadInput, match=f"--overlap: overlap {overlap} "):
        segmenter(64, 96, overlap=overlap)
    with pytest.raises(BadInput, match=f"--overlap: overlap {overlap} "):
        segmenter(64, 96).segment(random_frame(64, 96), overlap=overlap)


@pytest.mark.parametrize(
    "shape",
    [
        (8, 8),
        (8, 8, 4),
        (0, 8, 3),
        (8,),
    ],
)
def test_a_frame_that_is_no_rgb_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="frame is uint8"):
        segmenter().segment(Frame(np.zeros(shape, dtype=np.uint8), "odd"))


def test_leaving_the_segmenter_closes_its_engine() -> None:
    backend = FakeBackend(64, 64)
    with Segmenter(backend, InputSpec(64, 64), DUBAI):
        assert not backend.closed
    assert backend.closed
