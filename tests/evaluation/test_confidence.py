"""Reliability against a case computed by hand and against torchmetrics; and what ``evaluate`` tells of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import multiclass_calibration_error

from segclip_deploy import api
from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX, Vocabulary
from segclip_deploy.errors import BadInput, MissingDependency
from segclip_deploy.evaluation.accuracy import score
from segclip_deploy.evaluation.confidence import (
    BINS,
    Confidence,
    ConfidenceMeter,
    Reliability,
    reliability_of,
)
from segclip_deploy.evaluation.dataset import Sample
from segclip_deploy.evaluation.reliability_diagram import draw_reliability
from segclip_deploy.runtime.inference.segmenter import Segmenter
from tests.support.fakes import FakeBackend, classes_of, random_frame
from tests.support.helpers import call, edited


def test_the_error_of_six_pixels_is_what_one_computes_by_hand() -> None:
    best = np.array([0.62, 0.62, 0.62, 0.95, 0.95, 0.5], np.float32)
    logits = np.log(np.stack([best, 1 - best]))
    found = reliability_of(logits, np.array([0, 0, 1, 0, 1, 0], np.uint8))
    # Bins of 1/15: 0.62 is in (0.6, 0.667], 0.95 in (0.933, 1], 0.5 in (0.467, 0.533].
    np.testing.assert_array_equal(np.flatnonzero(found.pixels), [7, 9, 14])
    np.testing.assert_array_equal(found.pixels[[7, 9, 14]], [1, 3, 2])
    np.testing.assert_allclose(found.bin_accuracy[[7, 9, 14]], [1, 2 / 3, 1 / 2])
    np.testing.assert_allclose(found.bin_confidence[[7, 9, 14]], [0.5, 0.62, 0.95], rtol=1e-6)
    by_hand = (1 * (1 - 0.5) + 3 * (2 / 3 - 0.62) + 2 * (0.95 - 1 / 2)) / 6
    assert found.ece == pytest.approx(by_hand, rel=1e-6)
    nll = -np.log([0.62, 0.62, 0.38, 0.95, 0.05, 0.5]).mean()
    assert found.mean_nll == pytest.approx(nll, rel=1e-6)
    told = found.to_json()
    assert (told["pixels"], len(told["bins"])) == (6, BINS)
    assert told["bins"][0] == {
        "above": 0.0, "to": 1 / 15, "pixels": 0, "confidence": None, "accuracy": None,
    }  # fmt: skip


@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_the_error_is_that_of_torchmetrics(scale: float) -> None:
    rng = np.random.default_rng(3)
    logits = (scale * rng.standard_normal((7, 4000))).astype(np.float32)
    labels = rng.integers(0, 7, 4000).astype(np.uint8)
    halves = (slice(0, 1500), slice(1500, None))
    parts = [reliability_of(logits[:, half], labels[half]) for half in halves]
    expected = multiclass_calibration_error(
        torch.from_numpy(logits.T).softmax(1), torch.from_numpy(labels).long(), 7, n_bins=BINS
    )
    assert sum(parts, Reliability.empty()).ece == pytest.approx(float(expected), abs=1e-6)


def test_pixels_without_a_class_and_logits_that_are_none_do_no_harm() -> None:
    assert math.isnan(Reliability.empty().ece)
    assert json.dumps(Reliability.empty().to_json(), allow_nan=False)
    broken = reliability_of(np.full((3, 2), np.nan, np.float32), np.zeros(2, np.uint8))
    assert broken.to_json()["ece"] is None


def test_an_image_of_several_windows_is_measured_where_it_has_a_class(
    vocabulary: Vocabulary,
) -> None:
    """The fake is right of each block's first pixel, 10 against 0: e¹⁰ / (e¹⁰ + 4) sure there."""
    frame = random_frame(130, 90)
    corners = classes_of(frame.pixels[::4, ::4])
    ground_truth = np.full((130, 90), IGNORE_INDEX, np.uint8)
    ground_truth[:, :50] = corners.repeat(4, 0).repeat(4, 1)[:130, :50]
    meter = ConfidenceMeter(2.0)
    segmenter = Segmenter(FakeBackend(64, 64, logits=True), InputSpec(64, 64), vocabulary)
    accuracy = score(segmenter, [Sample("a", frame, ground_truth)], confidence=meter)
    found = meter.found
    assert found.before is not None
    assert found.measured.total == found.before.total == 130 * 50
    assert found.measured.hits.sum() == np.diag(accuracy.confusion.counts).sum()
    assert found.before.mean_nll != found.measured.mean_nll


def test_a_diagram_shows_before_and_after(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((3, 500)), rng.integers(0, 3, 500).astype(np.uint8)
    one, two = (reliability_of(s * logits.astype(np.float32), labels) for s in (1, 5))
    draw_reliability(Confidence(one), tmp_path / "new" / "one.png", title="$x_{")
    draw_reliability(Confidence(one, 5.0, two), tmp_path / "two.png", title="t")
    with Image.open(tmp_path / "new" / "one.png") as single, Image.open(tmp_path / "two.png") as two_of:  # fmt: skip
        assert two_of.width == 2 * single.width
        assert len(np.unique(np.asarray(two_of.convert("L")))) > 50
    with pytest.raises(BadInput, match=r"call it .*d\.png"):
        draw_reliability(Confidence(one), tmp_path / "d.pdf", title="")
    assert not list(tmp_path.glob("d.*"))


@pytest.mark.faults
def test_evaluate_without_logits_says_so_and_draws_nothing(
    tiny_bundle: Path, drawn_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, diagram = tmp_path / "bundle", tmp_path / "d.png"
    model = onnx.load(tiny_bundle / "model.onnx")
    del model.graph.output[1:]
    edited(tiny_bundle, bundle, model, outputs=["labels"])
    result = call("evaluate", bundle, drawn_dataset, "--json")
    assert json.loads(result.stdout)["confidence"] is None
    fix = "segclip-deploy export CKPT -o BUNDLE --logits, and build-engine again"
    assert f"outputs no logits, so its confidence is not measured; {fix}" in result.stderr
    result = call("evaluate", bundle, drawn_dataset, "--reliability", diagram)
    assert result.exit_code == 1
    assert "error: --reliability: ONNX Runtime" in result.stderr
    assert fix in result.stderr
    monkeypatch.setattr("segclip_deploy._optional.load", _missing)
    with pytest.raises(MissingDependency, match="matplotlib"):
        api.evaluate(bundle, drawn_dataset, reliability=diagram)
    assert not diagram.exists()


def _missing(module: str) -> None:
    raise ModuleNotFoundError(f"no module {module}", name=module)
