"""Rows of windows: bit for bit what the whole image in memory gives, in bounded memory, in full batches."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, load_vocabulary
from segclip_deploy.runtime.inference.frame import prepare
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.inference.stitching import LogitRows, Tally
from segclip_deploy.runtime.inference.windows import (
    Window,
    cover,
    labels_of,
    margin_of,
    upsample,
)
from tests.support.fakes import FakeBackend, random_frame
from tests.support.whole import blend_logits, join_centres

PROPERTY = settings(derandomize=True, deadline=None, max_examples=80)
DUBAI = load_vocabulary("dubai")
SIDE = st.integers(1, 150)
OVERLAP = st.sampled_from([0, 4, 12, 20, 28])


class Moody(FakeBackend):
    """Answers at random, seeded by the pixels of the whole window: every window has its own opinion."""

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Answer for each image of the batch."""
        given = super().infer(arrays)
        for slot, image in enumerate(arrays["image"]):
            rng = np.random.default_rng(zlib.crc32(image.tobytes()))
            for values in given.values():
                if values.dtype == np.float32:
                    values[slot] = rng.normal(size=values.shape[1:])
                else:
                    values[slot] = rng.integers(0, 5, values.shape[1:])
        return given


def moody(overlap: int, batch: int = 1, **outputs: bool) -> Segmenter:
    backend = Moody(32, 48, batch, min_batch=1, **outputs)
    return Segmenter(backend, InputSpec(32, 48, batch, 1), DUBAI, overlap=overlap)


def answers(
    pixels: NDArray[np.uint8], windows: list[Window], name: str, **outputs: bool
) -> list[NDArray[Any]]:
    backend = Moody(32, 48, **outputs)
    cuts = (pixels[w.top : w.top + w.height, w.left : w.left + w.width] for w in windows)
    return [backend.infer({"image": cut[None]})[name][0].copy() for cut in cuts]


@PROPERTY
@given(size=st.tuples(SIDE, SIDE), overlap=OVERLAP, batch=st.integers(1, 5))
def test_centres_in_strips_equal_centres_of_the_whole_image(
    size: tuple[int, int], overlap: int, batch: int
) -> None:
    frame = random_frame(*size)
    pixels = prepare(
        frame, *(max(least, -(-n // 4) * 4) for n, least in zip(size, (32, 48), strict=True))
    )
    windows = cover(pixels.shape[:2], (32, 48), (overlap, overlap))
    result = moody(overlap, batch, margin=True).segment(frame)
    expected = join_centres(
        pixels.shape[:2], windows, answers(pixels, windows, "labels", margin=True)
    )
    assert result.labels.tobytes() == expected[: size[0], : size[1]].tobytes()
    small = (pixels.shape[0] // 4, pixels.shape[1] // 4)
    cells = cover(small, (8, 12), (overlap // 4, overlap // 4))
    margins = join_centres(small, cells, answers(pixels, windows, "margin", margin=True))
    assert result.margin is not None
    assert result.margin.tobytes() == margins[: -(-size[0] // 4), : -(-size[1] // 4)].tobytes()
    assert result.windows == len(windows)


@PROPERTY
@given(size=st.tuples(SIDE, SIDE), overlap=OVERLAP, batch=st.integers(1, 5))
def test_blending_in_strips_equals_blending_of_the_whole_image(
    size: tuple[int, int], overlap: int, batch: int
) -> None:
    frame = random_frame(*size)
    pixels = prepare(
        frame, *(max(least, -(-n // 4) * 4) for n, least in zip(size, (32, 48), strict=True))
    )
    windows = cover(pixels.shape[:2], (32, 48), (overlap, overlap))
    result = moody(overlap, batch, logits=True, margin=True).segment(frame)
    logits = blend_logits(
        pixels.shape[:2], windows, answers(pixels, windows, "logits", logits=True, margin=True)
    )
    assert result.labels.tobytes() == labels_of(logits)[: size[0], : size[1]].tobytes()
    assert result.margin is not None
    expected = margin_of(logits)[: -(-size[0] // 4), : -(-size[1] // 4)]
    assert result.margin.tobytes() == expected.tobytes()


@PROPERTY
@given(size=st.tuples(SIDE, SIDE), overlap=OVERLAP, batch=st.integers(1, 5))
def test_the_logits_that_are_told_are_those_of_the_labels(
    size: tuple[int, int], overlap: int, batch: int
) -> None:
    frame, flyer = random_frame(*size), moody(overlap, batch, logits=True)
    pixels = prepare(frame, *flyer.padded(*size))
    windows = cover(pixels.shape[:2], (32, 48), (overlap, overlap))
    told: list[NDArray[np.float32]] = []

    def on_logits(rows: LogitRows) -> None:
        for top, logits in rows.upsampled():
            assert top == sum(part.shape[1] for part in told)
            told.append(logits)

    result = flyer.segment(frame, on_logits=on_logits)
    whole = blend_logits(pixels.shape[:2], windows, answers(pixels, windows, "logits", logits=True))
    got = np.concatenate(told, axis=1)
    assert got.tobytes() == np.stack([upsample(plane) for plane in whole]).tobytes()
    assert result.labels.tobytes() == got.argmax(0)[: size[0], : size[1]].astype(np.uint8).tobytes()
    assert max(part.shape[1] for part in told) <= 32  # pixel rows at once, however large the image


@PROPERTY
@given(
    size=st.tuples(SIDE, SIDE),
    overlap=OVERLAP,
    logits=st.booleans(),
    part=st.floats(0, 1, exclude_max=True),
)
def test_a_part_from_any_row_on_equals_that_part_of_the_whole(
    size: tuple[int, int], overlap: int, logits: bool, part: float
) -> None:
    frame = random_frame(*size)
    flyer = moody(overlap, 3, logits=logits)
    whole = flyer.segment(frame).labels
    shape = flyer.padded(*size)
    pixels = prepare(frame, *shape)
    first = int(part * size[0])
    got, tally = [], Tally()
    at = first
    for rows in flyer.rows(shape, cut_from(pixels), first=first, tally=tally):
        assert rows.top == at
        at = rows.bottom
        got.append(rows.values)
    assert at == shape[0]
    assert np.concatenate(got)[: size[0] - first, : size[1]].tobytes() == whole[first:].tobytes()
    bottoms = [w.top for w in cover(shape, (32, 48), (overlap, overlap)) if w.top + 32 + 4 > first]
    assert tally.windows <= len(bottoms)


def cut_from(pixels: NDArray[np.uint8]) -> Any:
    return lambda w: pixels[w.top : w.top + w.height, w.left : w.left + w.width]


def test_batches_are_filled_across_rows_of_windows() -> None:
    flyer = moody(0, 4)
    flyer.segment(random_frame(96, 3 * 48))
    assert flyer.backend.seen == [4, 4, 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize("logits", [False, True])
def test_windows_without_pixels_are_not_run_and_get_no_label(logits: bool) -> None:
    pixels = random_frame(96, 144).pixels
    backend = FakeBackend(32, 48, 2, min_batch=1, logits=logits)
    flyer = Segmenter(backend, InputSpec(32, 48, 2, 1), DUBAI, overlap=0)
    whole = flyer.segment(random_frame(96, 144)).labels
    backend.seen.clear()

    def read(w: Window) -> NDArray[np.uint8] | None:
        return None if w.top == 32 or w.left == 0 else cut_from(pixels)(w)

    labels = np.concatenate([rows.values for rows in flyer.rows((96, 144), read)])
    assert sum(backend.seen) == 4
    # The logits of a window reach half a cell beyond it.
    edge = 2 if logits else 0
    for rows in (slice(0, 32 - edge), slice(64 + edge, 96)):
        np.testing.assert_array_equal(labels[rows, 48 + edge :], whole[rows, 48 + edge :])
    if not logits:
        assert (labels[32:64] == IGNORE_INDEX).all()
        assert (labels[:, :48] == IGNORE_INDEX).all()


def test_margins_and_logits_of_a_part_are_refused() -> None:
    flyer, read = moody(0, margin=True, logits=True), cut_from(random_frame(64, 96).pixels)
    with pytest.raises(ValueError, match="whole images"):
        list(flyer.rows((64, 96), read, margin=True, first=8))
    with pytest.raises(ValueError, match="whole images"):
        list(flyer.rows((64, 96), read, on_logits=print, stop=8))


def test_logits_of_an_engine_that_outputs_none_are_refused() -> None:
    with pytest.raises(ValueError, match="fake outputs no logits"):
        moody(0).segment(random_frame(64, 96), on_logits=print)


@pytest.mark.parametrize("logits", [False, True])
def test_memory_is_that_of_a_row_of_windows(logits: bool) -> None:
    """An image four times as high needs no more."""

    def peak(height: int) -> int:
        backend = FakeBackend(64, 64, 4, min_batch=1, logits=logits)
        flyer = Segmenter(backend, InputSpec(64, 64, 4, 1), DUBAI)
        window = random_frame(64, 64).pixels
        tracemalloc.start()
        # upsampled, too
        told = (lambda rows: [None for _ in rows.upsampled()]) if logits else None
        labelled = flyer.rows((height, 1024), lambda _: window, on_logits=told)
        done = sum(len(rows.values) for rows in labelled)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert done == height
        return most

    # Beside the labels, the list of windows grows: 16 a row, of some 300 bytes each.
    assert peak(4096) < 1.1 * peak(1024) + 300 * 16 * 64


@PROPERTY
@given(
    size=st.tuples(SIDE, SIDE), overlap=OVERLAP, logits=st.booleans(), span=st.tuples(SIDE, SIDE)
)
def test_any_rows_alone_are_those_of_the_whole_image(
    size: tuple[int, int], overlap: int, logits: bool, span: tuple[int, int]
) -> None:
    flyer = moody(overlap, 3, logits=logits)
    pixels = prepare(random_frame(*size), *flyer.padded(*size))
    whole, _ = labelled(flyer, pixels, 0, None)
    first, stop = sorted(row % len(pixels) for row in span)
    part, _ = labelled(flyer, pixels, first, stop + 1)
    assert part.tobytes() == whole[first : stop + 1].tobytes()
    # Cut where it is best, no part needs a row of windows above its own.
    cuts = flyer.cuts(pixels.shape[:2])
    tops = sorted({w.top for w in cover(pixels.shape[:2], (32, 48), (overlap, overlap))})
    for index, (first, stop) in enumerate(pairwise([*cuts, len(pixels)])):
        part, seen = labelled(flyer, pixels, first, stop)
        assert part.tobytes() == whole[first:stop].tobytes()
        assert seen[0] == tops[index]


def labelled(
    flyer: Segmenter, pixels: NDArray[np.uint8], first: int, stop: int | None
) -> tuple[NDArray[np.uint8], list[int]]:
    """Rows of labels, and the tops of the windows they took."""
    seen = []

    def read(w: Window) -> NDArray[np.uint8]:
        seen.append(w.top)
        return pixels[w.top : w.top + w.height, w.left : w.left + w.width]

    rows = list(flyer.rows(pixels.shape[:2], read, first=first, stop=stop))
    assert [r.top for r in rows[1:]] == [r.bottom for r in rows[:-1]]
    assert rows[0].top == first
    return np.concatenate([r.values for r in rows]), seen
