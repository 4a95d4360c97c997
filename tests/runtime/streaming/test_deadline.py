"""The deadline's policy, as a function."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, load_vocabulary
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.streaming.deadline import (
    Decision,
    Pacer,
    central_block,
    decide,
)
from segclip_deploy.runtime.streaming.run import segment_centre
from tests.support.fakes import FakeBackend, blue_of, classes_of, random_frame

PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)
DUBAI = load_vocabulary("dubai")
SIDES = st.integers(1, 12)


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int]]:
    """Windows with overlap and, as many or fewer, without."""
    bare = draw(SIDES), draw(SIDES)
    return (bare[0] + draw(st.integers(0, 4)), bare[1] + draw(st.integers(0, 4))), bare


def passes(decision: Decision, batch: int) -> int:
    return -(-decision.rows * decision.columns // batch)


@PROPERTY
@given(
    left=st.floats(-1e4, 1e5),
    cost=st.floats(0.1, 1e4),
    batch=st.integers(1, 8),
    grid=grids(),
    must=st.booleans(),
)
def test_what_is_decided_fits_or_had_to_be_done(
    left: float, cost: float, batch: int, grid: tuple[tuple[int, int], tuple[int, int]], must: bool
) -> None:
    full, bare = grid
    decision = decide(left, cost, batch=batch, full=full, bare=bare, must=must)
    size = decision.rows * decision.columns
    if passes(decision, batch) * cost > max(left, 0):
        assert must
        assert size == 1
    assert decision.rows <= full[0]
    assert decision.columns <= full[1]
    assert (decision.action == "skip") == (size == 0)
    assert not (must and decision.action == "skip")
    # Nothing is left out that would have fitted.
    if decision.action != "full":
        assert -(-full[0] * full[1] // batch) * cost > max(left, 0) or size == 1
    if decision.action in ("fewer windows", "skip"):
        assert -(-bare[0] * bare[1] // batch) * cost > max(left, 0)
    if decision.action == "skip":
        assert cost > max(left, 0)


@PROPERTY
@given(grid=grids(), batch=st.integers(1, 4), cost=st.floats(1, 100), data=st.data())
def test_more_time_never_labels_less(
    grid: tuple[tuple[int, int], tuple[int, int]], batch: int, cost: float, data: st.DataObject
) -> None:
    full, bare = grid
    less, more = sorted(data.draw(st.tuples(st.floats(0, 2e4), st.floats(0, 2e4))))
    sizes = []
    for left in (less, more):
        found = decide(left, cost, batch=batch, full=full, bare=bare, must=False)
        sizes.append(found.rows * found.columns)
    assert sizes[0] <= sizes[1]


@PROPERTY
@given(st.integers(1, 200), SIDES, SIDES)
def test_no_block_of_windows_that_fits_is_larger(most: int, rows: int, columns: int) -> None:
    r, c = central_block(most, (rows, columns))
    assert 1 <= r <= rows
    assert 1 <= c <= columns
    sizes = [a * b for a in range(1, rows + 1) for b in range(1, columns + 1) if a * b <= most]
    assert r * c == max(sizes)


@pytest.mark.parametrize("logits", [False, True])
@PROPERTY
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
)
def test_the_centre_is_labelled_and_the_rest_is_not(
    logits: bool, size: tuple[int, int], rows: int, columns: int
) -> None:
    frame = random_frame(*size)
    backend = FakeBackend(64, 64, margin=True, logits=logits)
    flyer = Segmenter(backend, InputSpec(64, 64), DUBAI)
    result = segment_centre(flyer, frame, rows, columns)
    known = result.labels != IGNORE_INDEX
    tall, wide = min(size[0], 64 * rows), min(size[1], 64 * columns)
    assert known.sum() == tall * wide
    assert result.windows <= rows * columns
    ys, xs = np.nonzero(known)
    for found, side in ((ys, size[0]), (xs, size[1])):
        assert abs((found.min() + found.max()) / 2 - (side - 1) / 2) <= 4
    assert result.margin is not None
    assert result.margin.shape == (-(-size[0] // 4), -(-size[1] // 4))
    if not logits:
        np.testing.assert_array_equal(result.labels[known], classes_of(frame.pixels)[known])
        inside = known[::4, ::4]
        np.testing.assert_array_equal(result.margin[inside], blue_of(frame.pixels)[inside])
        assert not result.margin[~inside].any()


def test_a_pacer_learns_from_the_run_and_forgets_a_stall() -> None:
    pacer = Pacer(100, batch=1)
    full, bare = (2, 3), (2, 2)
    assert pacer.decide(0, full, bare).action == "full"  # nothing is known yet
    pacer.learn(120, 6)  # 20 ms each: five fit
    assert pacer.decide(0, full, bare).action == "no overlap"
    assert pacer.decide(50, full, bare) == Decision("fewer windows", 1, 2)
    assert pacer.decide(90, full, bare).action == "skip"
    assert pacer.decide(90, full, bare) == Decision("fewer windows", 1, 1)  # never two in a row
    assert pacer.decide(90, full, bare).action == "skip"
    for _ in range(8):
        pacer.learn(10, 1)  # the median of nine is 10 ms again
    assert pacer.decide(0, full, bare).action == "full"


def test_a_frame_of_one_window_is_done_whole_or_skipped() -> None:
    pacer = Pacer(10, batch=1)
    pacer.learn(20, 1)
    actions = [pacer.decide(0, (1, 1), (1, 1)).action for _ in range(4)]
    assert actions == ["skip", "full", "skip", "full"]
