"""A window that fits a camera's frames: it covers them, and no other computes fewer pixels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segclip_deploy.artifacts.input_spec import InputSpec
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import BadInput
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.inference.window_fit import (
    MOST_PIXELS,
    WindowGrid,
    describe_fit,
    fit_hint,
    fit_windows,
    pixel_ratio,
)
from segclip_deploy.runtime.inference.windows import cover
from tests.support.fakes import FakeBackend, random_frame

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)
FRAMES = st.tuples(st.integers(1, 4000), st.integers(1, 4000))
OVERLAPS = st.integers(0, 100).map(lambda cells: 4 * cells)
BATCHES = st.sampled_from([(1, None), (4, None), (4, 1), (6, 3)])


def computed(frame: tuple[int, int], spec: InputSpec) -> int:
    """Pixels of all inferences, from the windows as they are laid over the padded frame."""
    size, overlap = (spec.height, spec.width), spec.overlap or 0
    padded = (max(frame[0], size[0]), max(frame[1], size[1]))
    windows = len(cover(padded, size, (overlap, overlap)))
    inferences, rest = divmod(windows, spec.batch)
    least = spec.batches.start
    return (inferences * spec.batch + (max(rest, least) if rest else 0)) * size[0] * size[1]


def fewest(frame: tuple[int, int], overlap: int, batches: range) -> int:
    """Pixels that the best of all windows computes: every one is tried, also some beyond the frame."""
    least = overlap // 32 + 1
    sides = 32 * np.arange(least, max(least, *(n // 32 for n in frame)) + 3)
    rows, columns = (np.maximum(1, -((overlap - n) // (sides - overlap))) for n in frame)
    full, rest = np.divmod(rows[:, None] * columns, batches[-1])
    windows = full * batches[-1] + np.where(rest, np.maximum(rest, batches[0]), 0)
    area = sides[:, None] * sides
    return int((windows * area)[area * batches[-1] <= MOST_PIXELS].min())


@PROPERTY
@given(FRAMES, OVERLAPS, BATCHES)
def test_no_window_within_the_bound_computes_fewer_pixels(
    frame: tuple[int, int], overlap: int, batches: tuple[int, int | None]
) -> None:
    best = fit_windows(frame, overlap=overlap, batch=batches[0], min_batch=batches[1])[0]
    spec = best.input
    assert (spec.batch, spec.min_batch, spec.overlap) == (*batches, overlap)
    assert spec.height % 32 == spec.width % 32 == 0
    assert min(spec.height, spec.width) > overlap
    assert spec.batch * spec.height * spec.width <= MOST_PIXELS
    assert best.computed == computed(frame, spec) == fewest(frame, overlap, spec.batches)


@PROPERTY
@given(FRAMES, OVERLAPS)
def test_each_other_window_takes_less_memory_and_computes_more(
    frame: tuple[int, int], overlap: int
) -> None:
    for one, other in pairwise(fit_windows(frame, overlap=overlap)):
        assert one.computed <= other.computed
        assert one.input.height * one.input.width > other.input.height * other.input.width


@settings(PROPERTY, max_examples=20)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.sampled_from([0, 12, 32]),
    st.sampled_from([(1, None), (4, None), (4, 1), (4, 3)]),
)
def test_what_is_computed_is_what_the_engine_is_given(
    frame: tuple[int, int], overlap: int, batches: tuple[int, int | None]
) -> None:
    spec = InputSpec(64, 96, *batches, overlap)
    backend = FakeBackend(64, 96, spec.batch, min_batch=spec.min_batch)
    result = Segmenter(backend, spec, load_vocabulary("dubai")).segment(random_frame(*frame))
    grid = WindowGrid(frame, spec)
    assert sum(backend.seen) == grid.windows >= result.windows
    assert sum(backend.seen) * 64 * 96 == grid.computed


def test_the_window_of_a_camera_of_1600_by_900_is_the_frame_itself() -> None:
    best, second, *_ = fit_windows((900, 1600))
    assert (best.input.height, best.input.width, best.windows) == (928, 1600, 1)
    assert (second.input.height, second.input.width, second.windows) == (928, 864, 2)
    assert pixel_ratio([best]) == pytest.approx(928 / 900)
    usual = WindowGrid((900, 1600), InputSpec(512, 512))
    assert usual.windows == 12
    assert pixel_ratio([usual]) == pytest.approx(12 * 512**2 / (900 * 1600))
    assert pixel_ratio([best, usual]) == pytest.approx(
        (928 * 1600 + 12 * 512**2) / (2 * 900 * 1600)
    )


def test_what_was_chosen_from_is_told() -> None:
    lines = list(describe_fit(fit_windows((900, 1600))))
    assert lines[0].startswith("--frame 1600x900 (width first), overlap 128: the first of these")
    assert lines[2].split() == ["928x1600", "1", "1.03", "3%", "1,484,800"]
    assert lines[-1].split() == ["512x512", "12", "2.18", "54%", "262,144"]
    assert "512x512" not in "".join(describe_fit(fit_windows((900, 1600), overlap=512)))


def test_a_hint_is_given_where_a_window_would_fit_much_better() -> None:
    assert fit_hint(WindowGrid((900, 1600), InputSpec(512, 512))) == (
        "windows of 512x512 (height first) compute 2.18 times the pixels of a frame of 1600x900 "
        "(width first); 1.03 times with: segclip-deploy export CKPT -o BUNDLE --frame 1600x900"
    )
    assert fit_hint(WindowGrid((900, 1600), fit_windows((900, 1600))[0].input)) is None
    assert (
        fit_hint(WindowGrid((100, 100), InputSpec(128, 128))) is None
    )  # 1.64, and 160² is no better
    assert fit_hint(WindowGrid((40000, 9), InputSpec(512, 512))) is None


@pytest.mark.parametrize(
    ("frame", "overlap", "batch", "told"),
    [
        ((0, 1600), 128, 1, "a camera's frame has sides from 1 to 32768 pixels, not 1600x0"),
        ((900, 32769), 128, 1, "a camera's frame has sides from 1 to 32768 pixels, not 32769x900"),
        ((900, 1600), 130, 1, "overlap 130 is no multiple of 4"),
        ((900, 1600), 1500, 1, "no 1 windows that share 1500 pixels have 2,097,152 pixels or fewer"),
        ((900, 1600), 128, 99, "no 99 windows that share 128 pixels have 2,097,152 pixels or"),
    ],
)  # fmt: skip
def test_what_no_window_fits_is_refused(
    frame: tuple[int, int], overlap: int, batch: int, told: str
) -> None:
    with pytest.raises(BadInput) as caught:
        fit_windows(frame, overlap=overlap, batch=batch)
    assert str(caught.value).startswith(f"--frame: {told}")
