"""Batches: graphs and engines that take any number of images in a range."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from segclip_deploy.artifacts.bundle import InputSpec, load_bundle
from segclip_deploy.artifacts.golden import Golden
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.cli.options import batches
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.export.graph import DeployGraph
from segclip_deploy.export.onnx import write_onnx
from segclip_deploy.runtime.build_engine import build_engine
from segclip_deploy.runtime.inference.backend import Backend
from segclip_deploy.runtime.inference.segmenter import Segmenter
from segclip_deploy.runtime.open_engine import open_engine
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from segclip_deploy.runtime.targets.openvino import OpenVinoBackend
from segclip_deploy.runtime.verify import MAX_LOGIT_ERROR, MIN_AGREEMENT, verify
from tests.support.fakes import CLASSES, FakeBackend, classes_of, random_frame

NAMES = tuple(f"class {k}" for k in range(CLASSES))


def images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, 64, 96, 3), dtype=np.uint8)


def test_the_graph_leaves_the_batch_open_and_fixes_it_nowhere(open_bundle: Path) -> None:
    model = onnx.load(load_bundle(open_bundle).model_path)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert shapes == {
        "image": ["batch", 64, 96, 3],
        "labels": ["batch", 64, 96],
        "margin": ["batch", 16, 24],
        "logits": ["batch", 5, 16, 24],
    }
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    reshapes = [node for node in model.graph.node if node.op_type == "Reshape"]
    fixed = [n.name for n in reshapes if n.input[1] in constants and constants[n.input[1]][0] > 0]
    assert reshapes
    assert not fixed


@pytest.mark.parametrize("open_backend", [OnnxRuntimeBackend, OpenVinoBackend])
def test_engines_take_any_batch_into_the_same_buffers(
    open_bundle: Path, open_backend: type[OnnxRuntimeBackend]
) -> None:
    bundle = load_bundle(open_bundle)
    assert bundle.input.batches == range(1, 4)
    backend: Backend = open_backend(bundle.model_path, threads=1, batches=bundle.input.batches)
    assert {tensor.batches for tensor in (*backend.inputs, *backend.outputs)} == {range(1, 4)}
    pixels = images(3)
    single = [
        {
            name: values.copy()
            for name, values in backend.infer({"image": pixels[i : i + 1]}).items()
        }
        for i in range(3)
    ]
    whole: dict[str, NDArray[Any]] = dict(backend.infer({"image": pixels}))
    for count in (3, 1, 2, 2):
        got = backend.infer({"image": pixels[:count]})
        for name, values in got.items():
            assert len(values) == count
            assert np.shares_memory(values, whole[name])
        for slot in range(count):
            error = np.abs(got["logits"][slot] - single[slot]["logits"][0]).max()
            assert error <= MAX_LOGIT_ERROR
            assert (got["labels"][slot] == single[slot]["labels"][0]).mean() >= MIN_AGREEMENT[
                "fp32"
            ]
    assert backend.infer({"image": pixels[:2]})["labels"] is got["labels"]
    for count in (0, 4):
        with pytest.raises(ValueError, match=r"not uint8 \(1\.\.3, 64, 96, 3\)"):
            backend.infer({"image": np.zeros((count, 64, 96, 3), np.uint8)})
    backend.close()


@pytest.mark.parametrize("name", ["e.ov.onnx", "e.ort.onnx"])
def test_an_engine_is_built_and_opened_for_its_batches(
    open_bundle: Path, tmp_path: Path, name: str
) -> None:
    engine = build_engine(load_bundle(open_bundle), tmp_path / name)
    assert engine.record.built.verified is not None
    checks = {check.name: check for check in engine.record.built.verified.checks}
    assert list(checks) == ["finite", "labels", "classes", "batch", "logits", "margin", "repeats"]
    assert "slot 0 in batch 1" in checks["batch"].detail
    opened = open_engine(engine.path)
    assert opened.backend.inputs[0].batches == range(1, 4)
    opened.backend.close()


def test_a_graph_opened_without_a_range_takes_single_images(open_bundle: Path) -> None:
    for open_backend in (OnnxRuntimeBackend, OpenVinoBackend):
        assert open_backend(open_bundle / "model.onnx").inputs[0].batches == range(1, 2)


def golden() -> Golden:
    tiles = np.stack([random_frame(64, 64, seed).pixels for seed in (1, 2)])
    return Golden(tiles, classes_of(tiles), np.zeros((2, CLASSES, 16, 16), np.float32))


class WrongAtTwo(FakeBackend):
    """A few labels are wrong in one slot, and in batches of two only: 4 per mille of them."""

    def infer(self, arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        outputs = super().infer(arrays)
        if len(outputs["labels"]) == 2:
            labels = outputs["labels"]
            labels[1, 0, :32] = (labels[1, 0, :32] + 1) % CLASSES
        return outputs


def test_verify_runs_every_batch_and_finds_the_one_that_is_wrong() -> None:
    backend = FakeBackend(64, 64, 8, min_batch=1)
    found = verify(backend, golden(), NAMES)
    assert found.passed
    assert set(backend.seen) == set(range(1, 9))
    found = verify(WrongAtTwo(64, 64, 8, min_batch=1), golden(), NAMES)
    failed = {check.name: check.detail for check in found.checks if not check.passed}
    assert set(failed) == {"labels", "batch"}
    # 32 of 2 × 64 × 64 labels, not of all that were looked at.
    assert "99.6094% equal at batch 2, the worst" in failed["labels"]
    assert "99.6094% of the labels of any slot at batch 2" in failed["batch"]


def test_the_batch_check_is_left_out_where_there_is_one_image() -> None:
    assert "batch" not in [
        check.name for check in verify(FakeBackend(64, 64), golden(), NAMES).checks
    ]
    static = verify(FakeBackend(64, 64, 2), golden(), NAMES)
    (detail,) = [check.detail for check in static.checks if check.name == "batch"]
    assert "of any slot are those of slot 0 in batch 2" in detail


@pytest.mark.parametrize(
    ("least", "calls"), [(None, [4, 4]), (1, [4, 2]), (2, [4, 2]), (3, [4, 3])]
)
def test_the_rest_of_the_windows_goes_in_a_smaller_batch(
    least: int | None, calls: list[int]
) -> None:
    backend = FakeBackend(64, 96, 4, min_batch=least)
    spec = InputSpec(64, 96, 4, least)
    frame = random_frame(160, 176)
    result = Segmenter(backend, spec, load_vocabulary("dubai")).segment(frame)
    assert result.windows == 6
    assert backend.seen == calls
    np.testing.assert_array_equal(result.labels, classes_of(frame.pixels))


@pytest.mark.parametrize(
    ("spec", "takes"),
    [
        (InputSpec(64, 64, 4), r"\(1\.\.4, 64, 64, 3\)"),
        (InputSpec(64, 64, 4, 2), r"\(1\.\.4, 64, 64, 3\)"),
        (InputSpec(64, 64, 3, 1), r"\(1\.\.4, 64, 64, 3\)"),
    ],
)
def test_an_engine_of_other_batches_than_its_record_is_refused(spec: InputSpec, takes: str) -> None:
    with pytest.raises(BadArtifact, match=takes):
        Segmenter(FakeBackend(64, 64, 4, min_batch=1), spec, load_vocabulary("dubai"))


@given(st.integers(1, 99), st.integers(1, 99))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_a_batch_is_a_number_or_a_rising_range(a: int, b: int) -> None:
    assert batches(str(a)) == a
    if a < b:
        assert batches(f"{a}..{b}") == (a, b)
        assert str(InputSpec(32, 32, b, a).sides) == f"({a}..{b}, 32, 32, 3)"
    else:
        with pytest.raises(click.BadParameter, match=r"no range like 1\.\.8"):
            batches(f"{a}..{b}")


@pytest.mark.parametrize("text", ["0", "-1", "0..4", "1..", "..4", "1...4", "two", ""])
def test_what_is_no_batch_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no batch like 4"):
        batches(text)


@pytest.mark.parametrize("spec", [{"batch": 2, "min_batch": 3}, {"batch": 2, "min_batch": 0}])
def test_a_record_with_an_impossible_batch_is_refused(
    open_bundle: Path, tmp_path: Path, spec: dict[str, int]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(open_bundle, bundle)
    record = json.loads((bundle / "bundle.json").read_text())
    record["input"] = {"height": 64, "width": 96, **spec}
    (bundle / "bundle.json").write_text(json.dumps(record))
    with pytest.raises(BadArtifact, match=r"bundle\.json: batches from . to 2 cannot be"):
        load_bundle(bundle)


class FixesItsBatch(nn.Module):
    """As networks do that take their sizes as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, stride=4)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image).reshape(int(image.shape[0]), 4, 8, 8)


def test_a_network_that_fixes_its_batch_is_refused_in_one_line(tmp_path: Path) -> None:
    graph = DeployGraph(FixesItsBatch(), (0.5,) * 3, (0.5,) * 3, logits=False).eval()
    with pytest.raises(BadInput, match="several batches") as caught:
        write_onnx(graph, InputSpec(32, 32, 3, 1), tmp_path / "model.onnx")
    assert "--batch 1..3" in str(caught.value)
    assert not list(tmp_path.iterdir())
    write_onnx(graph, InputSpec(32, 32, 3), tmp_path / "model.onnx")
    assert OnnxRuntimeBackend(tmp_path / "model.onnx").inputs[0].batches == range(3, 4)


def test_the_open_graph_builds_in_tensorrt_rtx_with_a_profile(open_bundle: Path) -> None:
    """NVIDIA's own parser and builder, which need no GPU; without a profile it is refused."""
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.INTERNAL_ERROR))
    assert parser.parse_from_file(str(open_bundle / "model.onnx"))
    assert tuple(network.get_input(0).shape) == (-1, 64, 96, 3)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    assert builder.build_serialized_network(network, config) is None
    profile = builder.create_optimization_profile()
    profile.set_shape("image", (1, 64, 96, 3), (3, 64, 96, 3), (3, 64, 96, 3))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
