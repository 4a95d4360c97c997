"""Windows: where they lie, and how they join."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segclip_deploy.artifacts.input_spec import InputSpec
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.inference.windows import (
    LOGIT_STRIDE,
    Window,
    count_windows,
    cover,
    default_overlap,
    labels_of,
)
from tests.support.fakes import FakeBackend, random_frame
from tests.support.whole import blend_logits

# The same examples on every run, and no deadline: the machine may be busy.
PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)

Pair = tuple[int, int]


@st.composite
def axis(draw: st.DrawFn) -> tuple[int, int, int]:
    """Lengths of image, window and overlap along one axis."""
    window = draw(st.integers(1, 24))
    return draw(st.integers(window, 90)), window, draw(st.integers(0, window - 1))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Pair, Pair, Pair]:
    """Image, window and overlap."""
    (h, wh, oh), (w, ww, ow) = draw(axis()), draw(axis())
    return (h, w), (wh, ww), (oh, ow)


def on_grid(layout: tuple[Pair, Pair, Pair]) -> tuple[Pair, Pair, Pair]:
    """The layout with every length multiplied by the stride."""
    (h, w), (wh, ww), (oh, ow) = layout
    s = LOGIT_STRIDE
    return (h * s, w * s), (wh * s, ww * s), (oh * s, ow * s)


def spans(windows: list[Window]) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """(start, kept start, kept end) of each row and each column of windows."""
    rows = sorted({(w.top, w.keep[0], w.keep[1]) for w in windows})
    columns = sorted({(w.left, w.keep[2], w.keep[3]) for w in windows})
    assert len(windows) == len(rows) * len(columns)
    return rows, columns


@PROPERTY
@given(layouts())
def test_kept_parts_tile_the_image_exactly_once(layout: tuple[Pair, Pair, Pair]) -> None:
    seen = np.zeros(layout[0], dtype=int)
    for window in cover(*layout):
        top, bottom, left, right = window.keep
        seen[top:bottom, left:right] += 1
    assert (seen == 1).all()


@PROPERTY
@given(layouts())
def test_windows_lie_in_the_image_and_kept_parts_in_their_windows(
    layout: tuple[Pair, Pair, Pair],
) -> None:
    (height, width), size, _ = layout
    for w in cover(*layout):
        assert (w.height, w.width) == size
        assert 0 <= w.top <= w.keep[0] < w.keep[1] <= w.top + w.height <= height
        assert 0 <= w.left <= w.keep[2] < w.keep[3] <= w.left + w.width <= width


@PROPERTY
@given(layouts())
def test_neighbours_overlap_enough_are_cut_half_way_and_are_no_more_than_needed(
    layout: tuple[Pair, Pair, Pair],
) -> None:
    image, window, overlap = layout
    for length, size, shared, line in zip(
        image, window, overlap, spans(cover(*layout)), strict=True
    ):
        assert len(line) == 1 + math.ceil((length - size) / (size - shared))
        for (start, _, cut), (following, kept, _) in pairwise(line):
            assert start + size - following >= shared
            assert cut == kept
            assert abs((start + size - cut) - (cut - following)) <= 1


@PROPERTY
@given(layouts())
def test_on_the_logit_grid_windows_lie_on_the_logit_grid(layout: tuple[Pair, Pair, Pair]) -> None:
    for window in cover(*on_grid(layout)):
        assert window.top % LOGIT_STRIDE == window.left % LOGIT_STRIDE == 0


@PROPERTY
@given(st.integers(1, 4096))
def test_the_default_overlap_is_a_quarter_on_the_logit_grid(size: int) -> None:
    overlap = default_overlap(size)
    assert overlap % LOGIT_STRIDE == 0
    assert size / 4 - LOGIT_STRIDE < overlap <= size / 4


@PROPERTY
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([0, 12, 16, 32]))
def test_windows_are_counted_as_the_segmenter_cuts_them(
    height: int, width: int, overlap: int
) -> None:
    flyer = Segmenter(FakeBackend(64, 64), InputSpec(64, 64), load_vocabulary("dubai"))
    rows, columns = count_windows((height, width), (64, 64), overlap)
    assert flyer.segment(random_frame(height, width), overlap=overlap).windows == rows * columns


@pytest.mark.parametrize(
    ("image", "window", "overlap"),
    [(63, 64, 0), (64, 64, 64), (64, 64, -4)],
    ids=["image below window", "overlap as large as window", "negative overlap"],
)
def test_windows_that_cannot_cover_are_refused(image: int, window: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=f"overlap {overlap}"):
        cover((image, image), (window, window), (overlap, overlap))


@pytest.mark.parametrize("shape", [(7, 33, 21), (5, 1, 8), (2, 64, 64)])
def test_labels_equal_torchs_upsampling_and_argmax(shape: tuple[int, int, int]) -> None:
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    large = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None],
        scale_factor=LOGIT_STRIDE,
        mode="bilinear",
        align_corners=False,
    )
    expected = large[0].argmax(0).numpy()
    labels = labels_of(logits)
    assert labels.dtype == np.uint8
    assert labels.shape == expected.shape
    # Float rounding may turn a tie.
    assert (labels == expected).mean() >= 0.9999


def test_the_first_of_equal_classes_wins() -> None:
    assert not labels_of(np.ones((3, 2, 2), dtype=np.float32)).any()


@PROPERTY
@given(layouts(), st.integers(0, 2**32 - 1))
def test_windows_cut_from_one_map_blend_into_that_map(
    layout: tuple[Pair, Pair, Pair], seed: int
) -> None:
    image, window, overlap = on_grid(layout)
    height, width = layout[0]
    whole = np.random.default_rng(seed).normal(size=(3, height, width)).astype(np.float32)
    windows = cover(image, window, overlap)
    cuts = []
    for w in windows:
        top, left = w.top // LOGIT_STRIDE, w.left // LOGIT_STRIDE
        h, b = w.height // LOGIT_STRIDE, w.width // LOGIT_STRIDE
        cuts.append(whole[:, top : top + h, left : left + b])
    np.testing.assert_allclose(blend_logits(image, windows, cuts), whole, atol=1e-5)


def test_blending_trusts_the_window_whose_border_is_farther() -> None:
    windows = cover((64, 96), (64, 64), (32, 32))
    zeros, ones = (np.full((1, 16, 16), v, dtype=np.float32) for v in (0, 1))
    shared = blend_logits((64, 96), windows, [zeros, ones])[0, 8, 8:16]
    assert (np.diff(shared) > 0).all()
    assert shared[0] < 0.5 < shared[-1]
    np.testing.assert_allclose(shared + shared[::-1], 1, atol=1e-6)
