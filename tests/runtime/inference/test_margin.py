"""The margin: one definition in NumPy, the same in the graph, joined as the labels are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.golden import Golden
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.cli import main
from segclip_deploy.errors import BadInput
from segclip_deploy.export.graph import DeployGraph, margin
from segclip_deploy.export.onnx import drop_output
from segclip_deploy.export.torch_backend import TorchBackend
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.inference.windows import margin_of
from segclip_deploy.runtime.io.sinks.folder import FolderSink
from segclip_deploy.runtime.io.sources.file_source import FileSource
from segclip_deploy.runtime.io.sources.naming import SourceFile
from segclip_deploy.runtime.streaming.run import Run
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.targets.openvino import OpenVinoBackend
from segclip_deploy.runtime.verify import verify
from tests.support.fakes import CLASSES, FakeBackend, blue_of, classes_of, logits_of, random_frame

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)
DUBAI = load_vocabulary("dubai")
SIZES = st.integers(1, 200)


def apart(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    """The largest difference of two margins."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.uint8
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_a_margin_is_the_difference_of_the_two_best_probabilities() -> None:
    p = np.array([[0.7, 0.5, 1.0, 0.4], [0.1, 0.5, 0.0, 0.3], [0.2, 0.0, 0.0, 0.3]])
    with np.errstate(divide="ignore"):
        logits = np.log(p).astype(np.float32)[:, None]
    np.testing.assert_array_equal(margin_of(logits), [[128, 0, 255, 26]])  # 0.5, 0, 1, 0.1


@PROPERTY
@given(st.integers(0, 10**6), st.integers(2, 40), st.sampled_from([0.01, 1.0, 10.0, 1000.0]))
def test_numpy_and_torch_give_the_margin_of_the_formula(
    seed: int, classes: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((classes, 6, 7))).astype(np.float32)
    exact = np.exp(logits.astype(np.float64) - logits.max(0))
    best = np.sort(exact / exact.sum(0), axis=0)
    formula = np.rint(255 * (best[-1] - best[-2])).astype(np.uint8)
    assert apart(margin_of(logits), formula) <= 1
    assert apart(margin(torch.from_numpy(logits)[None]).numpy()[0], formula) <= 1


@pytest.mark.parametrize("open_backend", [OnnxRuntimeBackend, OpenVinoBackend])
def test_the_graphs_margin_is_that_of_its_logits(
    open_bundle: Path, open_backend: type[OnnxRuntimeBackend]
) -> None:
    image = np.random.default_rng(3).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    got = open_backend(open_bundle / "model.onnx").infer({"image": image})
    assert apart(got["margin"][0], margin_of(got["logits"][0])) <= 1
    assert len(np.unique(got["margin"])) > 20


def test_the_margin_stays_when_the_logits_go(open_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes((open_bundle / "model.onnx").read_bytes())
    drop_output(path, "logits")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    image = np.random.default_rng(3).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    before = OnnxRuntimeBackend(open_bundle / "model.onnx").infer({"image": image})
    after = OnnxRuntimeBackend(path).infer({"image": image})
    assert list(after) == ["labels", "margin"]
    np.testing.assert_array_equal(after["margin"], before["margin"])


def test_a_margin_of_one_class_is_refused() -> None:
    class OneClass(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image[:, :1, ::4, ::4]

    graph = DeployGraph(OneClass(), (0.5,) * 3, (0.5,) * 3, logits=True, margin=True)
    backend = TorchBackend(graph, InputSpec(32, 32), 1)
    with pytest.raises(BadInput, match="--margin: the network has one class"):
        backend.infer({"image": np.zeros((1, 32, 32, 3), np.uint8)})


def segmenter(*, logits: bool, margin: bool = True) -> Segmenter:
    return Segmenter(FakeBackend(64, 64, logits=logits, margin=margin), InputSpec(64, 64), DUBAI)


@PROPERTY
@given(size=st.tuples(SIZES, SIZES), overlap=st.sampled_from([None, 0, 12, 60]))
def test_margins_of_windows_join_as_if_the_engine_had_seen_the_whole_frame(
    size: tuple[int, int], overlap: int | None
) -> None:
    frame = random_frame(*size)
    backend = FakeBackend(64, 64, margin=True)
    result = Segmenter(backend, InputSpec(64, 64), DUBAI, overlap=overlap).segment(frame)
    assert result.margin is not None
    np.testing.assert_array_equal(result.margin, blue_of(frame.pixels))
    np.testing.assert_array_equal(result.labels, classes_of(frame.pixels))


@PROPERTY
@given(size=st.tuples(SIZES, SIZES))
def test_where_windows_are_blended_the_margin_is_that_of_the_blend(size: tuple[int, int]) -> None:
    frame = random_frame(*size)
    result = segmenter(logits=True).segment(frame)
    assert result.margin is not None
    assert apart(result.margin, margin_of(logits_of(frame.pixels))) <= 1
    assert segmenter(logits=True, margin=False).segment(frame).margin is None


def test_a_run_writes_the_margin_and_leaves_no_old_one(tmp_path: Path) -> None:
    source, out = tmp_path / "a.png", tmp_path / "out"
    pixels = random_frame(70, 90).pixels
    Image.fromarray(pixels).save(source)
    for has in (True, False):
        with segmenter(logits=False, margin=has) as flyer, FolderSink(out) as sink:
            list(Run(flyer, FileSource([SourceFile(source, "a")]), sink))
        line = (out / "areas.jsonl").read_text()
        assert ('"margin": "a.margin.png"' if has else '"margin": null') in line
        assert (out / "a.margin.png").exists() == has
        if has:
            with Image.open(out / "a.margin.png") as image:
                assert image.mode == "L"
                np.testing.assert_array_equal(np.asarray(image), blue_of(pixels))


def test_verification_holds_the_margin_against_the_golden_logits() -> None:
    tiles = np.stack([random_frame(64, 64, seed).pixels for seed in (1, 2)])
    golden = Golden(tiles, classes_of(tiles), np.stack([logits_of(tile) for tile in tiles]))
    names = tuple(f"class {k}" for k in range(CLASSES))

    class Right(FakeBackend):
        off = 1

        def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
            outputs = super().infer(arrays)
            outputs["margin"][0] = margin_of(logits_of(arrays["image"][0])) - self.off
            return outputs

    class Wrong(Right):
        off = 2

    assert verify(Right(64, 64, margin=True), golden, names).passed
    found = verify(Wrong(64, 64, margin=True), golden, names)
    assert [check.name for check in found.checks if not check.passed] == ["margin"]


def test_a_bundle_with_a_margin_is_verified_run_and_inspected(
    open_bundle: Path, tmp_path: Path
) -> None:
    out, source = tmp_path / "out", tmp_path / "a.png"
    Image.fromarray(random_frame(100, 130).pixels).save(source)
    for command in (("verify", open_bundle), ("run", open_bundle, source, "-o", out)):
        result = CliRunner().invoke(main, [str(word) for word in command])
        assert result.exit_code == 0, result.stderr
    told = CliRunner().invoke(main, ["inspect", str(open_bundle)]).stdout
    assert "uint8 (1..3, 64, 96, 3)" in told
    assert "labels, margin, logits\n" in told
    with Image.open(out / "a.margin.png") as image:
        assert image.size == (33, 25)
