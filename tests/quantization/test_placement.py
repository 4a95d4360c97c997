"""Where Q/DQ goes, and the numbers it is written with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.calibration.table import Range, load_table
from segclip_deploy.export.onnx_model import load_model, save_model
from segclip_deploy.quantization.placement import find_probes, place
from segclip_deploy.quantization.qdq import scale_of, write_qdq
from tests.support.graphs import small_model

PROPERTY = settings(derandomize=True, deadline=None, max_examples=150)


def everything(_name: str) -> bool:
    return True


def weights(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_products_with_trained_weights_are_quantized_and_nothing_else(tmp_path: Path) -> None:
    graph = small_model(
        tmp_path / "m.onnx",
        """(float[1,16,8,8] x, float[1,32,8,8] v, float[2,32] rows) => (
            float[1,1,8,8] summed, float[1,32,8,8] both, float[2,24] gemm, float[2,16] matmul,
            float[1,8,8,8] few, float[2] scores)
        {
            conv = Conv(x, wide)
            relu = Relu(conv)
            deep = Conv <group: int = 32, pads: ints = [1, 1, 1, 1]> (relu, depthwise)
            few = Conv(deep, narrow)
            summed = Conv(deep, ones)
            both = Mul(deep, v)
            gemm = Gemm <transB: int = 1> (rows, left)
            matmul = MatMul(rows, right)
            scores = MatMul(rows, vector)
        }""",
        wide=weights(32, 16, 1, 1),
        depthwise=weights(32, 1, 3, 3),
        narrow=weights(8, 32, 1, 1),
        ones=np.ones((1, 32, 1, 1), np.float32),
        left=weights(24, 32),
        right=weights(32, 16),
        vector=weights(32),
    ).graph
    for scheme in Scheme:
        placement = place(graph, scheme, everything)
        assert placement.weights == (
            ("net/conv", 1, 0),
            ("net/deep", 1, 0),
            ("net/gemm", 1, 0),
            ("net/matmul", 1, 1),
        )
        assert placement.reads == tuple((name, 0) for name, _, _ in placement.weights)
        assert placement.nodes == {"net/conv", "net/deep", "net/gemm", "net/matmul"}
    chosen = place(graph, Scheme.CPU, lambda name: name == "net/deep")
    assert chosen.nodes == {"net/deep"}


def test_the_skip_of_a_residual_sum_is_rounded_and_in_the_cpu_dialect_both_sides(
    tmp_path: Path,
) -> None:
    graph = small_model(
        tmp_path / "m.onnx",
        """(float[1,16,8,8] x) => (float[1,16,8,8] d, float[1,16,8,8] none)
        {
            first = Conv(x, w)
            skip = Relu(first)
            second = Conv(skip, w)
            a = Add(skip, second)
            b = Add(second, skip)
            third = Conv(b, w)
            c = Add(second, third)
            d = Add(c, bias)
            none = Add(skip, a)
        }""",
        w=weights(16, 16, 1, 1),
        bias=weights(1, 16, 1, 1),
    ).graph
    skips = [read for read in place(graph, Scheme.TENSORRT, everything).reads if "/" in read[0][:4]]
    adds = {name: index for name, index in skips if name.removeprefix("net/") in "abcd"}
    assert adds == {"net/a": 0, "net/b": 1, "net/c": 0}
    both = [
        r for r in place(graph, Scheme.CPU, everything).reads if r[0].removeprefix("net/") in "abcd"
    ]
    assert both == [(f"net/{add}", side) for add in "abc" for side in (0, 1)]
    # Where only the first convolution's side is INT8, that is what goes on in its accumulator.
    reads = place(graph, Scheme.TENSORRT, lambda name: name != "net/third").reads
    assert ("net/c", 1) in reads


@pytest.mark.parametrize(("scheme", "mix"), [(Scheme.CPU, "Conv_2"), (Scheme.TENSORRT, "Conv")])
def test_every_convolution_of_the_example_is_int8_but_the_sums(
    scheme: Scheme, mix: str, example_bundle: Path
) -> None:
    graph = load_model(load_bundle(example_bundle).for_scheme(scheme).model_path).graph
    convolutions = [node.name for node in graph if node.op_type == "Conv"]
    trained = {name for name in convolutions if name.startswith(("encoder.", "decoder."))}
    nodes = place(graph, scheme, everything).nodes
    assert len(trained) == 56
    assert trained <= nodes
    # What the text was folded into, and each level's two projections of five rows.
    rest = {
        *(f"cff.{s}.read/Conv" for s in (8, 16, 32)),
        *(f"cff.{s}.language_to_vision/{mix}" for s in (8, 16, 32)),
        *(f"cff.{s}.vision_to_language/Gemm" for s in (8, 16, 32)),
        "refiner/Gemm",
        "refiner/Gemm_2",
    }
    assert nodes - trained == rest
    constants = {node.inputs[1].name for node in graph if node.name in nodes}
    assert not {name for name in constants if "same_head" in name or "new_ones" in name}


@pytest.mark.parametrize("scheme", Scheme, ids=lambda scheme: scheme.value)
@PROPERTY
@given(st.data())
def test_whatever_blocks_are_chosen_a_table_has_their_tensors(
    scheme: Scheme, tiny_bundle: Path, data: st.DataObject
) -> None:
    graph = loaded(tiny_bundle, scheme)
    blocks = sorted({block_of(node.name) for node in graph})
    chosen = data.draw(st.sets(st.sampled_from(blocks)))
    nodes = {node.name: node for node in graph}
    placement = place(graph, scheme, lambda name: block_of(name) in chosen)
    read = {nodes[name].inputs[index].name for name, index in placement.reads}
    assert read <= set(find_probes(graph, [scheme]).tensors)
    assert {block_of(name) for name, _ in placement.reads} <= chosen


def test_a_resize_between_rounded_tensors_reads_a_rounded_one_in_scheme_tensorrt(
    tiny_bundle: Path,
) -> None:
    graph = loaded(tiny_bundle, Scheme.TENSORRT)
    resizes = {node.name for node in graph if node.op_type == "Resize"}
    levels = {f"decoder.{stride}/Resize" for stride in (4, 8, 16)}
    assert resizes == {*levels, "graph/Resize"}  # the last makes labels

    def rounded(scheme: Scheme, chosen: Callable[[str], bool]) -> set[str]:
        return {name for name, _ in place(graph, scheme, chosen).reads} & resizes

    assert rounded(Scheme.TENSORRT, everything) == levels
    assert rounded(Scheme.CPU, everything) == set()
    one_less = rounded(Scheme.TENSORRT, lambda name: block_of(name) != "decoder.8")
    assert one_less == levels - {"decoder.8/Resize"}


_LOADED: dict[Path, Any] = {}


def loaded(bundle: Path, scheme: Scheme) -> Any:
    """Not changed by what reads it."""
    path = load_bundle(bundle).for_scheme(scheme).model_path
    if path not in _LOADED:
        _LOADED[path] = load_model(path).graph
    return _LOADED[path]


ENDS = st.floats(-1e4, 1e4, width=32).filter(lambda value: value == 0 or abs(value) > 1e-2)


@PROPERTY
@given(ENDS, ENDS, st.lists(st.floats(0, 1), max_size=20))
def test_what_lies_in_the_range_comes_back_within_half_a_step(
    one: float, other: float, shares: list[float]
) -> None:
    low, high = sorted((one, other))
    span = Range(low, high, max(-low, high))
    values = np.array([low, 0.0, high, *(low + share * (high - low) for share in shares)])
    for scheme, levels in ((Scheme.TENSORRT, (-127, 127)), (Scheme.CPU, (0, 255))):
        scale, zero = scale_of(span, scheme)
        assert scale.dtype == np.float32
        assert scale > 0
        assert zero.dtype == (np.int8 if scheme is Scheme.TENSORRT else np.uint8)
        quantized = np.clip(np.rint(values / scale) + int(zero), *levels)
        back = (quantized - int(zero)) * scale.astype(np.float64)
        assert back[1] == 0
        np.testing.assert_array_less(np.abs(back - values), 0.501 * scale)


@pytest.mark.parametrize("scheme", Scheme, ids=lambda scheme: scheme.value)
@pytest.mark.parametrize("magnitude", [0.0, 1e-12, 1e9, 3e38])
def test_a_scale_is_never_zero_nor_infinite(scheme: Scheme, magnitude: float) -> None:
    scale, _ = scale_of(Range(-magnitude, magnitude, magnitude), scheme)
    stored = scale.astype(np.float16 if scheme is Scheme.TENSORRT else np.float32)
    assert stored > 0
    assert np.isfinite(stored)
    assert stored == scale  # none is rounded again when it is written beside FP16


@pytest.fixture(scope="module", params=Scheme, ids=lambda scheme: scheme.value)
def written(
    request: pytest.FixtureRequest,
    tiny_bundle: Path,
    tiny_table: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Scheme, onnx.GraphProto]:
    """The tiny model with Q/DQ everywhere and nothing else."""
    bundle = load_bundle(tiny_bundle).for_scheme(request.param)
    model = load_model(bundle.model_path)
    placement = place(model.graph, request.param, everything)
    ranges = load_table(tiny_table).of(bundle.lowering).ranges
    write_qdq(model.graph, placement, ranges, request.param)
    path = tmp_path_factory.mktemp("qdq") / "model.onnx"
    save_model(model, path)
    return request.param, onnx.load(path).graph


def test_scales_in_the_file_are_those_of_the_table(
    written: tuple[Scheme, onnx.GraphProto], tiny_table: Path
) -> None:
    scheme, graph = written
    ranges = load_table(tiny_table).of(scheme.rules.lowering).ranges
    constant = constants_of(graph)
    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) > 30
    for node in quantizers:
        tensor, scale, zero = node.input
        span = ranges[tensor]
        if scheme is Scheme.TENSORRT:
            step = np.float16(span.magnitude / 127)
            assert constant(scale) == max(step, np.finfo(np.float16).tiny)
            assert constant(zero) == 0
            assert constant(zero).dtype == np.int8
        else:
            low, high = min(span.low, 0), max(span.high, 0)
            assert constant(scale) == np.float32((high - low) / 255)
            assert constant(zero).dtype == np.uint8
            assert abs(int(constant(zero)) + low / constant(scale)) <= 0.5001
        (dequantizer,) = [n for n in graph.node if node.output[0] in n.input]
        assert dequantizer.op_type == "DequantizeLinear"
        assert list(dequantizer.input[1:]) == [scale, zero]
    assert len({node.input[0] for node in quantizers}) == len(quantizers)


def test_weights_come_back_within_half_a_step_of_their_channel(
    written: tuple[Scheme, onnx.GraphProto], tiny_bundle: Path
) -> None:
    scheme, graph = written
    before = onnx.load(load_bundle(tiny_bundle).for_scheme(scheme).model_path).graph
    original, constant = constants_of(before), constants_of(graph)
    read = {node.name: node.input[1] for node in before.node if len(node.input) > 1}
    made = {node.output[0]: node for node in graph.node}
    top = 127 if scheme is Scheme.TENSORRT else 63
    operators = [
        node
        for node in graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
        and made.get(node.input[1], node).op_type == "DequantizeLinear"
    ]
    assert len(operators) > 30
    for node in operators:
        levels, scale, zero = map(constant, made[node.input[1]].input)
        (axis,) = [a.i for a in made[node.input[1]].attribute if a.name == "axis"]
        assert levels.dtype == np.int8
        assert np.abs(levels.astype(int)).max() <= top
        assert not zero.any()
        assert scale.shape == (levels.shape[axis],)
        shape = [1] * levels.ndim
        shape[axis] = -1
        error = np.abs(original(read[node.name]) - levels * scale.reshape(shape))
        assert (error <= 0.5001 * scale.reshape(shape)).all(), node.name
    assert not {i.name for i in graph.initializer} & {read[node.name] for node in operators}


def constants_of(graph: onnx.GraphProto) -> Callable[[str], NDArray[Any]]:
    by_name = {i.name: i for i in graph.initializer}
    return lambda name: numpy_helper.to_array(by_name[name])
