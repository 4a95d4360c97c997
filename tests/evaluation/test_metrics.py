"""Scores against torchmetrics and against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.evaluation.accuracy import Accuracy
from segclip_deploy.evaluation.metrics import (
    BoundaryTally,
    Confusion,
    boundary_mask,
    confusion_matrix,
)

# The same examples on every run, and no deadline: the machine may be busy.
PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)

CLASSES = 5
NAMES = ("a", "b", "c", "d", "e")


@st.composite
def labels_and_truth(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A label map and a ground truth with ignored pixels; either may lack any class."""
    shape = draw(array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=12))
    present = draw(st.lists(st.integers(0, CLASSES - 1), min_size=1, unique=True))
    elements = st.sampled_from(present)
    labels = draw(arrays(np.uint8, shape, elements=elements))
    ground_truth = draw(arrays(np.uint8, shape, elements=elements | st.just(IGNORE_INDEX)))
    return labels, ground_truth


def confusion(labels: NDArray[np.uint8], ground_truth: NDArray[np.uint8]) -> Confusion:
    return Confusion(confusion_matrix(labels, ground_truth, CLASSES), NAMES)


@settings(PROPERTY, max_examples=25)
@given(labels_and_truth())
def test_scores_equal_those_of_torchmetrics(
    case: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    torch = pytest.importorskip("torch")
    tm = pytest.importorskip("torchmetrics.classification")
    labels, ground_truth = case
    scores = confusion(labels, ground_truth)
    counted = ground_truth != IGNORE_INDEX
    present = np.isin(np.arange(CLASSES), [*labels[counted], *ground_truth[counted]])
    # torchmetrics scores an absent class 0; here it is NaN and left out of the mean.
    np.testing.assert_array_equal(np.isnan(scores.iou), ~present)
    if not counted.any():
        assert math.isnan(scores.miou)
        assert math.isnan(scores.pixel_accuracy)
        assert scores.to_json()["miou"] is None
        return
    pair = (
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(ground_truth.astype(np.int64)),
    )
    options = {"num_classes": CLASSES, "ignore_index": IGNORE_INDEX}
    iou = tm.MulticlassJaccardIndex(average=None, **options)(*pair).numpy()
    accuracy = tm.MulticlassAccuracy(average="micro", **options)(*pair).item()
    np.testing.assert_allclose(scores.iou[present], iou[present], rtol=1e-6)
    assert scores.miou == pytest.approx(iou[present].mean(), rel=1e-6)
    assert scores.pixel_accuracy == pytest.approx(accuracy, rel=1e-6)


@PROPERTY
@given(labels_and_truth(), labels_and_truth())
def test_added_confusions_score_all_pixels_together(
    one: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    two: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    labels, ground_truth = (
        np.concatenate([a.ravel(), b.ravel()])[None] for a, b in zip(one, two, strict=True)
    )
    pooled = Confusion.empty(NAMES) + confusion(*one) + confusion(*two)
    np.testing.assert_array_equal(pooled.counts, confusion(labels, ground_truth).counts)


def test_confusions_of_different_classes_are_not_added() -> None:
    with pytest.raises(ValueError, match="different classes"):
        Confusion.empty(NAMES) + Confusion.empty(NAMES[::-1])


def test_the_rows_of_a_confusion_matrix_are_the_truth() -> None:
    labels, ground_truth = np.array([[1, 1]], np.uint8), np.array([[0, IGNORE_INDEX]], np.uint8)
    np.testing.assert_array_equal(confusion_matrix(labels, ground_truth, 2), [[0, 1], [0, 0]])


def test_maps_of_different_sizes_are_not_compared() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        confusion_matrix(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)


@PROPERTY
@given(
    arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9)),
    st.integers(1, 4),
)
def test_boundary_mask_equals_brute_force(region: NDArray[np.bool_], width: int) -> None:
    height, breadth = region.shape
    expected = np.zeros_like(region)
    for y, x in np.argwhere(region):
        near = [
            0 <= i < height and 0 <= j < breadth and region[i, j]
            for i in range(y - width, y + width + 1)
            for j in range(x - width, x + width + 1)
        ]
        expected[y, x] = not all(near)
    np.testing.assert_array_equal(boundary_mask(region, width), expected)


def test_the_edge_of_the_image_is_a_boundary() -> None:
    inner = ~boundary_mask(np.ones((8, 9), dtype=np.bool_), 2)
    expected = np.zeros((8, 9), dtype=np.bool_)
    expected[2:-2, 2:-2] = True
    np.testing.assert_array_equal(inner, expected)


@PROPERTY
@given(labels_and_truth())
def test_boundary_iou_of_a_map_with_itself_is_one(
    case: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    labels, _ = case
    tally = BoundaryTally.of(labels, labels, NAMES)
    iou = (BoundaryTally.empty(NAMES) + tally).iou
    present = np.isin(np.arange(CLASSES), labels)
    np.testing.assert_array_equal(iou[present], 1)
    assert np.isnan(iou[~present]).all()


def test_boundary_iou_counts_a_band_of_two_percent_of_the_diagonal() -> None:
    ground_truth = np.zeros((300, 400), dtype=np.uint8)
    labels = np.ones_like(ground_truth)
    tally = BoundaryTally.of(labels, ground_truth, ("a", "b"))
    band = 300 * 400 - 280 * 380  # the diagonal is 500, so the band 10 wide
    assert tally.union.tolist() == [band, band]
    assert tally.intersection.tolist() == [0, 0]


def test_the_digest_of_the_ground_truth_knows_masks_and_neither_labels_nor_names() -> None:
    def digest(images: tuple[str, ...], *counts: list[list[int]]) -> str:
        by_image = tuple(Confusion(np.array(one), ("a", "b")) for one in counts)
        return Accuracy(by_image[0], BoundaryTally.empty(("a", "b")), images, by_image).ground_truth_sha256  # fmt: skip

    scored = digest(("x", "y"), [[8, 2], [1, 9]], [[5, 0], [0, 5]])
    assert digest(("x", "y"), [[1, 9], [5, 5]], [[0, 5], [5, 0]]) == scored  # other labels
    assert digest(("1", "0"), [[5, 0], [0, 5]], [[8, 2], [1, 9]]) == scored  # other names
    assert digest(("x", "y"), [[8, 1], [1, 10]], [[5, 0], [0, 5]]) != scored
    assert digest(("x",), [[8, 2], [1, 9]]) != scored
