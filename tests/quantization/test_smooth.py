"""SmoothQuant: the same function in float, and less noise in INT8 where a few channels are outliers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.bundle_record import MODEL_FILES, Smoothing
from segclip_deploy.artifacts.files import sha256_file
from segclip_deploy.artifacts.golden import load_golden, save_golden
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.calibration.ranges import METHODS, Histogram
from segclip_deploy.export.onnx_model import load_model, observer, save_model
from segclip_deploy.export.parity import answers_of, sqnr
from segclip_deploy.quantization.placement import place
from segclip_deploy.quantization.qdq import write_qdq
from segclip_deploy.quantization.smooth import find_norms, smooth_graph
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from tests.conftest import EXAMPLE
from tests.support.graphs import small_model
from tests.support.helpers import call

WIDTH = 32
LOUD = (3, 17)
BLOCK = """(float[N, T, 32] image) => (float[N, T, 48] left, float[N, T, 48] right) {
    norm = LayerNormalization<axis = -1>(image, gain, bias)
    turned = Transpose<perm = [1, 0, 2]>(norm)
    back = Transpose<perm = [1, 0, 2]>(turned)
    left = MatMul(back, in_weight)
    flat = Reshape(norm, rows)
    gemm = Gemm<transB = 1>(flat, out_weight, out_bias)
    right = Reshape(gemm, shape)
}"""


def block(path: Path, text: str = BLOCK) -> Any:
    """A LayerNorm with two channels a hundred times larger than the rest, and what reads it."""
    rng = np.random.default_rng(0)
    gain = np.ones(WIDTH, np.float32)
    gain[list(LOUD)] = 100
    model = small_model(
        path,
        text,
        gain=gain,
        bias=rng.standard_normal(WIDTH).astype(np.float32),
        in_weight=rng.standard_normal((WIDTH, 48)).astype(np.float32),
        out_weight=rng.standard_normal((48, WIDTH)).astype(np.float32),
        out_bias=rng.standard_normal(48).astype(np.float32),
        rows=np.array([-1, WIDTH]),
        shape=np.array([2, 9, 48]),
    )
    for node in model.graph:
        node.name = node.name.replace("net/", "encoder.stage1/")
    return model


def run(model: Any, path: Path, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    save_model(model, path)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(["left", "right"], {"image": image}))


def in_int8(model: Any, path: Path, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The answers of the whole graph in INT8 with the ranges of this very image."""
    placement = place(model.graph, Scheme.TENSORRT, lambda _: True)
    assert len(placement.weights) == 2
    nodes = {node.name: node for node in model.graph}
    names = list(dict.fromkeys(nodes[n].inputs[i].name for n, i in placement.reads))
    save_model(model, path)
    ranges = {}
    for name, values in zip(names, observer(load_model(path), names)(image), strict=True):
        seen = Histogram()
        seen.add(values)
        ranges[name] = METHODS["minmax"](seen)
    write_qdq(model.graph, placement, ranges, Scheme.TENSORRT)
    return run(model, path, image)


def test_it_computes_the_same_and_bears_int8_better(tmp_path: Path) -> None:
    image = np.random.default_rng(1).standard_normal((2, 9, WIDTH)).astype(np.float32)
    plain, path = tmp_path / "plain.onnx", tmp_path / "m.onnx"
    expected = run(block(plain), path, image)
    model = block(plain)
    assert list(find_norms(model.graph)) == ["norm"]
    (norm,) = observer(block(plain), ["norm"])(image)
    peak = np.abs(norm).max((0, 1))
    smooth_graph(model.graph, {"norm": peak}, 0.5)
    got = run(model, path, image)
    for one, other in zip(expected, got, strict=True):
        assert np.abs(one - other).max() <= 1e-4 * np.abs(one).max()
    # Equation 4 with α = 1/2 makes a channel as large in the activation as in its weights.
    constants = {c.name: c.const_value.numpy() for c in model.graph.initializers.values()}
    (gain,) = [v for n, v in constants.items() if n == "norm.smooth1"]
    factor = block(plain).graph.initializers["gain"].const_value.numpy() / gain
    weights = np.abs(constants["left.smooth1"]).max(1), np.abs(constants["gemm.smooth1"]).max(0)
    np.testing.assert_allclose(peak / factor, np.maximum(*weights), rtol=1e-4)
    before = in_int8(block(plain), path, image)
    after = in_int8(model, path, image)
    for one, rough, fine in zip(expected, before, after, strict=True):
        assert sqnr(one, fine) > sqnr(one, rough) + 6


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.8])
def test_alpha_says_how_much_of_the_loudness_moves(tmp_path: Path, alpha: float) -> None:
    """Equation 4: activations become max|X|^(1−α) · max|W|^(1−α), weights max|X|^α · max|W|^α."""
    model = block(tmp_path / "m.onnx")
    constants = {c.name: c.const_value.numpy() for c in model.graph.initializers.values()}
    rows = np.abs(constants["in_weight"]).max(1), np.abs(constants["out_weight"]).max(0)
    weights, gain = np.maximum(*rows), constants["gain"]
    peak = np.random.default_rng(2).uniform(0.5, 90, WIDTH).astype(np.float32)
    smooth_graph(model.graph, {"norm": peak}, alpha)
    after = {c.name: c.const_value.numpy() for c in model.graph.initializers.values()}
    quieter = peak * after["norm.smooth1"] / gain
    rows = np.abs(after["left.smooth1"]).max(1), np.abs(after["gemm.smooth1"]).max(0)
    np.testing.assert_allclose(quieter, (peak * weights) ** (1 - alpha), rtol=1e-4)
    np.testing.assert_allclose(np.maximum(*rows), (peak * weights) ** alpha, rtol=1e-4)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # It is also read as it is,
        ("gemm = Gemm<transB = 1>(flat", "sum = Add(norm, norm)\n gemm = Gemm<transB = 1>(flat"),
        # or another axis becomes the one that is summed over.
        ("Transpose<perm = [1, 0, 2]>(norm)", "Transpose<perm = [0, 2, 1]>(norm)"),
    ],
)
def test_what_others_read_is_left_alone(old: str, new: str, tmp_path: Path) -> None:
    text = BLOCK.replace(old, new)
    if "0, 2, 1" in new:
        text = text.replace("perm = [1, 0, 2]>(turned)", "perm = [0, 2, 1]>(turned)")
    assert find_norms(block(tmp_path / "m.onnx", text).graph) == {}


def with_a_norm(source: Path, out: Path) -> Path:
    """The tiny bundle with a LayerNorm and a product before its first convolution, golden anew."""
    shutil.copytree(source, out)
    for name in MODEL_FILES.values():
        add_a_norm(out / name)
    golden = load_golden(out / "golden.npz")
    backend = OnnxRuntimeBackend(out / "model.onnx")
    save_golden(out / "golden.npz", answers_of(backend, golden.tiles))
    record = json.loads((out / "bundle.json").read_text())
    changed = (*MODEL_FILES.values(), "golden.npz")
    record["files"] |= {name: sha256_file(out / name) for name in changed}
    (out / "bundle.json").write_text(json.dumps(record))
    return out


def add_a_norm(path: Path) -> None:
    model = onnx.load(path)
    graph = model.graph
    (stem,) = [n for n in graph.node if n.name == "encoder.stem/Conv"]
    rng = np.random.default_rng(0)
    gain = np.ones(96, np.float32)
    gain[list(LOUD)] = 20
    for name, array in (
        ("n.gain", gain),
        ("n.weight", (rng.standard_normal((96, 96)) / 30).astype(np.float32)),
    ):
        graph.initializer.append(numpy_helper.from_array(array, name))
    place = list(graph.node).index(stem)
    nodes = [
        helper.make_node(
            "LayerNormalization", [stem.input[0], "n.gain"], ["n"], "encoder.stem/N", axis=-1
        ),
        helper.make_node("MatMul", ["n", "n.weight"], ["n.product"], "encoder.stem/P"),
    ]
    stem.input[0] = "n.product"
    for node in reversed(nodes):
        graph.node.insert(place, node)
    onnx.save(model, path)


def test_the_command_writes_a_bundle_that_goes_on_like_any_other(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    source, out = with_a_norm(tiny_bundle, tmp_path / "b"), tmp_path / "smooth"
    images = ("--tiles", EXAMPLE / "images", "--select", 16)
    result = call("smooth", source, "-o", out, *images)
    assert result.exit_code == 0, result.output
    assert "1 LayerNorms smoothed" in result.stdout
    bundle, parent = load_bundle(out), load_bundle(source)
    assert bundle.record.smoothing == Smoothing(alpha=0.5, norms=1, tiles=16)
    assert bundle.record.parents.bundle == sha256_file(source / "bundle.json")
    assert (bundle.precision, bundle.outputs) == ("fp32", parent.outputs)
    assert [link.max_logit_error <= 1e-4 for link in bundle.record.parity[-2:]] == [True] * 2
    for name in MODEL_FILES.values():
        assert bundle.files[name] != parent.files[name]
    assert bundle.files.keys() == parent.files.keys()
    assert call("verify", out).exit_code == 0
    table = tmp_path / "t.json"
    assert call("calibrate", out, "-o", table, *images).exit_code == 0
    # The parent's table is not its own.
    stale = call("quantize", source, "--table", table, "-o", tmp_path / "q", "--scheme", "cpu")
    assert stale.exit_code == 1
    assert "measured in another bundle" in stale.stderr
    made = call(
        "quantize", out, "--table", table, "-o", tmp_path / "q",
        "--scheme", "tensorrt", "--precision", "int8",
    )  # fmt: skip
    assert made.exit_code == 0, made.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "no LayerNorm of its encoder"),
        (("--alpha", "1"), "--alpha: 1.0 is not between 0 and 1"),
        (("--alpha", "nan"), "--alpha: nan is not between 0 and 1"),
    ],
)
def test_what_cannot_be_smoothed_is_refused(
    arguments: tuple[str, ...], told: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    images = ("--tiles", EXAMPLE / "images", "--select", 16)
    result = call("smooth", tiny_bundle, "-o", tmp_path / "o", *images, *arguments)
    assert result.exit_code == 1
    assert told in result.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
