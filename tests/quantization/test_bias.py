"""Biases that take back what the rounding of weights adds on average."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from segclip_deploy.artifacts import records
from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.artifacts.scheme import Lowering, Scheme
from segclip_deploy.calibration.calibrate import channel_means
from segclip_deploy.calibration.selection import select_tiles
from segclip_deploy.calibration.table import Range, load_table
from segclip_deploy.calibration.tiles import find_tiles
from segclip_deploy.export.onnx_model import expose, load_model, observer, save_model
from segclip_deploy.export.parity import answers_of, sqnr
from segclip_deploy.quantization.from_tiles import calibrate
from segclip_deploy.quantization.placement import place
from segclip_deploy.quantization.qdq import write_qdq
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from tests.conftest import EXAMPLE
from tests.support.graphs import small_model

LEVELS = {"x": Range(0, 255, 255)}  # whole numbers are kept: only weights are rounded


def weights(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def execute(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The reference run: with Q/DQ fused away, the kernels' own rounding would be in the way."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (y,) = session.run(["y"], {"x": x})
    return y


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        (
            "(float[2,16,6,6] x) => (float[2,32,4,4] y) { y = Conv(x, w) }",
            {"w": weights(32, 16, 3, 3)},
        ),
        (
            "(float[2,16,6,6] x) => (float[2,16,4,4] y) { y = Conv <group: int = 16> (x, w, b) }",
            {"w": weights(16, 1, 3, 3), "b": weights(16)},
        ),
        (
            "(float[2,32,6,6] x) => (float[2,64,6,6] y) { y = Conv <group: int = 2> (x, w, b) }",
            {"w": weights(64, 16, 1, 1), "b": weights(64)},
        ),
        (
            "(float[6,16] x) => (float[6,24] y) { y = Gemm <transB: int = 1> (x, w, b) }",
            {"w": weights(24, 16), "b": weights(24)},
        ),
        (
            "(float[6,16] x) => (float[6,24] y) { y = Gemm <beta: float = 0.5> (x, w, b) }",
            {"w": weights(16, 24), "b": weights(24)},
        ),
        (
            "(float[2,6,16] x) => (float[2,6,24] y) { z = MatMul(x, w)  y = Add(b, z) }",
            {"w": weights(16, 24), "b": weights(24)},
        ),
    ],
    ids=["conv without bias", "depthwise", "grouped", "gemm", "gemm with beta", "matmul and sum"],
)
def test_an_output_keeps_its_mean(text: str, constants: dict[str, Any], tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.onnx", text, **constants)
    operator = model.graph[0]
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, operator.inputs[0].shape.numpy()).astype(np.float32)
    if values.ndim == 4:  # alike in each channel: no border differs from the middle
        values[:] = values.mean((0, 2, 3), keepdims=True).round()
    wanted = execute(tmp_path / "m.onnx", values)
    shifts = {}
    axis = 1 if operator.op_type == "Conv" else -1
    for name, means in (("off", {}), ("on", {operator.name: channel_means(values, axis)})):
        written = load_model(tmp_path / "m.onnx")
        placement = place(written.graph, Scheme.CPU, lambda _: True)
        assert placement.weights
        write_qdq(written.graph, placement, LEVELS, Scheme.CPU, means)
        save_model(written, tmp_path / f"{name}.onnx")
        error = channel_means(execute(tmp_path / f"{name}.onnx", values) - wanted, axis)
        shifts[name] = np.abs(error).max()
    assert shifts["off"] > 0.05
    assert shifts["on"] < 1e-3


def test_a_product_without_a_place_for_it_is_left_as_it_is(tmp_path: Path) -> None:
    text = "(float[6,16] x) => (float[6,24] y, float[6,24] z) { y = MatMul(x, w)  z = Add(y, b) }"
    model = small_model(tmp_path / "m.onnx", text, w=weights(16, 24), b=weights(24))
    placement = place(model.graph, Scheme.CPU, lambda _: True)
    write_qdq(model.graph, placement, LEVELS, Scheme.CPU, {"net/y": np.ones(16)})
    np.testing.assert_array_equal(model.graph.initializers["b"].const_value.numpy(), weights(24))


def test_the_table_has_the_means_of_what_products_read(tiny_bundle: Path, tiny_table: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    table = load_table(tiny_table).of(bundle.lowering)
    model = load_model(bundle.model_path)
    operators = {name for name, _, _ in place(model.graph, Scheme.TENSORRT, lambda _: True).weights}
    assert set(table.means) == operators
    found = select_tiles(find_tiles([EXAMPLE / "images"], bundle.input), 24)
    (node,) = [node for node in model.graph if node.name == "encoder.stage1/Conv"]
    run = observer(model, [node.inputs[0].name])
    values = np.concatenate([run(tile[None])[0] for _, tile in found])
    np.testing.assert_allclose(table.means[node.name], values.mean((0, 2, 3)), rtol=1e-4)


def test_weights_trained_with_the_rounding_keep_their_biases(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(tiny_bundle)
    tuned = replace(
        bundle, record=records.replace(bundle.record, trained_for_int8=("encoder.stem",))
    )
    found = select_tiles(find_tiles([EXAMPLE / "images"], bundle.input), 16)
    plain = calibrate(bundle, found, tmp_path / "plain.json", method="minmax")
    table = calibrate(tuned, found, tmp_path / "tuned.json", method="minmax")
    assert plain.graphs.keys() == table.graphs.keys() == {*Lowering}
    for lowering in Lowering:
        means = plain.of(lowering).means
        left_out = {name for name in means if block_of(name) == "encoder.stem"}
        assert left_out
        assert set(table.of(lowering).means) == set(means) - left_out


@pytest.mark.parametrize("scheme", Scheme, ids=lambda scheme: scheme.value)
def test_the_example_comes_closer_to_fp32(
    scheme: Scheme, example_bundle: Path, example_table: Path, tmp_path: Path
) -> None:
    bundle = load_bundle(example_bundle).for_scheme(scheme)
    table = load_table(example_table).of(bundle.lowering)
    golden = load_golden(bundle.golden_path)
    noise = {}
    for name, means in (("off", {}), ("on", table.means)):
        model = load_model(bundle.model_path)
        expose(model, "logits")
        placement = place(model.graph, scheme, lambda _: True)
        write_qdq(model.graph, placement, table.ranges, scheme, means)
        save_model(model, tmp_path / f"{name}.onnx")
        backend = OnnxRuntimeBackend(tmp_path / f"{name}.onnx", reference=True)
        noise[name] = sqnr(golden.logits, answers_of(backend, golden.tiles).logits)
    assert noise["on"] > noise["off"] + 0.5
