"""FP16: what must stay FP32, and the casts between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.export.onnx_model import load_model, save_model
from segclip_deploy.quantization.fp16 import FP16_MAX, fp32_fallback, overflow_fallback, write_fp16
from segclip_deploy.quantization.fp16_emulation import round_as_fp16
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from tests.support.graphs import small_model

SENSITIVE = {"Exp", "LogSoftmax", "Pow", "Reciprocal", "ReduceL2", "ReduceSum", "Sqrt"}


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def everything(_name: str) -> bool:
    return True


@pytest.mark.parametrize(
    ("node", "constant", "reason"),
    [
        ("Max(x, c)", 1e-6, "its constant 1e-06 is below FP16's normal numbers"),
        ("Clip(x, c)", 1e-6, "its constant 1e-06 is below FP16's normal numbers"),
        ("Add(x, c)", -1e-5, "its constant -1e-05 is below FP16's normal numbers"),
        ("Mul(x, c)", 1e9, "its constant 1e+09 is above FP16's largest number"),
        ("Add(x, c)", -np.inf, "its constant -inf is above"),
        ("Max(x, c)", 0.0, None),
        ("Add(x, c)", 2.0**-14, None),
        ("Add(x, c)", FP16_MAX, None),
    ],
)
def test_a_node_whose_constant_fp16_does_not_hold_stays_fp32(
    node: str, constant: float, reason: str | None, tmp_path: Path
) -> None:
    model = small_model(
        tmp_path / "m.onnx",
        f"(float[2] x) => (float[2] y) {{ y = {node} }}",
        c=scalar(constant),
    )
    found = fp32_fallback(model.graph, everything)
    if reason is None:
        assert found == {}
    else:
        assert list(found) == ["net/y"]
        assert found["net/y"].startswith(reason)
    assert fp32_fallback(model.graph, lambda _: False) == {}
    write_fp16(model.graph, lambda name: name not in found)
    save_model(model, tmp_path / "fp16.onnx")


def test_small_weights_are_no_reason(tmp_path: Path) -> None:
    model = small_model(
        tmp_path / "m.onnx",
        "(float[1,2] x) => (float[1,2] y) { y = Gemm(x, w, b) }",
        w=np.full((2, 2), 1e-6, np.float32),
        b=np.array([1e-7, 0], np.float32),
    )
    assert fp32_fallback(model.graph, everything) == {}


def test_what_comes_near_the_largest_number_is_named_with_tensor_and_tile(tmp_path: Path) -> None:
    model = small_model(
        tmp_path / "m.onnx",
        """(float[2] x) => (float[2] c)
        {
            a = Relu(x)
            b = Mul(a, ten)
            c = Neg(b)
        }""",
        ten=scalar(10),
    )
    absmax = {"a": (32752.0, "golden tile 0"), "b": (327520.0, "golden tile 1")}
    why = "b reaches 3.28e+05 on golden tile 1"
    assert overflow_fallback(model.graph, absmax, everything) == {"net/b": why, "net/c": why}
    absmax = {"a": (32753.0, "golden tile 0"), "b": (1.0, "golden tile 1")}
    assert set(overflow_fallback(model.graph, absmax, everything)) == {"net/a", "net/b"}
    broken = {"c": (float("nan"), "golden tile 0")}
    assert overflow_fallback(model.graph, broken, everything) == {
        "net/c": "c reaches nan on golden tile 0"
    }
    assert overflow_fallback(model.graph, absmax, lambda _: False) == {}


def test_a_tensor_is_cast_once_to_each_precision_and_back(tmp_path: Path) -> None:
    model = small_model(
        tmp_path / "m.onnx",
        """(float[2] x) => (float[2] p, float[2] q, float[2] r, float[2] s)
        {
            p = Relu(x)
            q = Neg(x)
            e = Exp(p)
            f = Exp(p)
            r = Add(e, half)
            s = Mul(e, f)
        }""",
        half=scalar(0.5),
    )
    fp32 = fp32_fallback(model.graph, everything)
    assert fp32 == {"net/e": "exp(12) overflows", "net/f": "exp(12) overflows"}
    write_fp16(model.graph, lambda name: name not in fp32)
    save_model(model, tmp_path / "fp16.onnx")
    graph = onnx.load(tmp_path / "fp16.onnx").graph
    casts = sorted(node.input[0] for node in graph.node if node.op_type == "Cast")
    # In once, e and f once each; p serves the output and both exponentials with one.
    assert casts == ["e", "f", "p.fp16", "q.fp16", "r.fp16", "s.fp16", "x"]
    assert {o.name: o.type.tensor_type.elem_type for o in graph.output} == dict.fromkeys(
        "pqrs", onnx.TensorProto.FLOAT
    )
    assert [i.name for i in graph.initializer] == ["half"]


def test_nodes_that_make_floats_of_none_keep_their_type(tmp_path: Path) -> None:
    model = small_model(
        tmp_path / "m.onnx",
        """(float[2] x) => (float[2] y)
        {
            zeros = ConstantOfShape(shape)
            y = Add(x, zeros)
        }""",
        shape=np.array([2], np.int64),
    )
    write_fp16(model.graph, everything)
    save_model(model, tmp_path / "fp16.onnx")  # checks every type


def test_a_softmax_over_many_pixels_keeps_its_weights_until_they_are_summed_up(
    tmp_path: Path,
) -> None:
    def reasons(size: int) -> dict[str, str]:
        model = small_model(
            tmp_path / "m.onnx",
            f"""(float[2,{size}] x, float[{size},3] v) => (float[2,3] z)
            {{
                w = Softmax(x)
                scaled = Mul(w, two)
                y = MatMul(scaled, v)
                z = Relu(y)
            }}""",
            two=scalar(2),
        )
        return fp32_fallback(model.graph, everything)

    assert reasons(1024) == {}
    assert set(reasons(1025)) == {"net/w", "net/scaled", "net/y"}
    assert reasons(1025)["net/w"] == "a sum over 1025 exponentials"
    assert reasons(1025)["net/y"] == "weights of a softmax over 1025 pixels"


@pytest.mark.parametrize("square", ["Mul(x, x)", "Pow(x, two)"])
def test_a_square_stays_fp32_however_it_is_written(square: str, tmp_path: Path) -> None:
    text = f"(float[4] x) => (float[4] y, float[4] z) {{ y = {square}  z = Mul(x, y) }}"
    model = small_model(tmp_path / "m.onnx", text, two=scalar(2))
    assert fp32_fallback(model.graph, everything) == {"net/y": "squares overflow from 256"}


def test_the_tiny_model_in_fp16_holds_no_sensitive_node_and_keeps_its_names(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    path = load_bundle(tiny_bundle).for_scheme(Scheme.TENSORRT).model_path
    model = load_model(path)
    found = fp32_fallback(model.graph, everything)
    write_fp16(model.graph, lambda name: name not in found)
    save_model(model, tmp_path / "fp16.onnx")
    before = onnx.load(path).graph
    after = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "fp16.onnx")).graph
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in [*after.value_info, *after.output, *after.input]
    } | {i.name: i.data_type for i in after.initializer}
    fp16 = onnx.TensorProto.FLOAT16
    sensitive = [node for node in after.node if node.op_type in SENSITIVE]
    assert len(sensitive) > 20
    assert not [n.name for n in sensitive if fp16 in map(kinds.get, [*n.input, *n.output])]
    operators = [n for n in after.node if n.op_type == "Conv" and n.name.startswith("encoder.")]
    assert all(kinds[name] == fp16 for node in operators for name in [*node.input, *node.output])
    texts = {i.name for i in before.initializer if i.name.startswith("text.")}
    assert {i.name for i in after.initializer if i.name.startswith("text.")} == texts
    assert len({i.name for i in after.initializer}) == len(after.initializer)
    assert [(o.name, o.type) for o in after.output] == [(o.name, o.type) for o in before.output]
    casts = [(n.input[0], n.attribute[0].i) for n in after.node if n.op_type == "Cast"]
    assert len(set(casts)) == len(casts)
    kept = {node.name for node in before.node} - {node.name for node in after.node}
    assert not kept


def test_rounding_computes_what_numpy_computes_in_fp16(tmp_path: Path) -> None:
    """Small numbers and overflow too, in every tensor that is FP16 and in no other."""
    model = small_model(
        tmp_path / "m.onnx",
        """(float[8] x) => (float[8] c, float[8] far, float[8] e)
        {
            a = Mul(x, k)
            b = Relu(a)
            c = Div(b, k)
            far = Mul(b, k)
            d = Mul(x, k)
            e = Div(d, k)
        }""",
        k=scalar(1000.3),
    )
    write_fp16(model.graph, lambda name: name not in ("net/d", "net/e"))
    assert round_as_fp16(model.graph) == 5  # x, a, b, c, far
    save_model(model, tmp_path / "rounded.onnx")
    x = np.array([1, 100, 0.1, 1 + 2**-12, -3, 1e-6, 1e-9, 3.14159], np.float32)
    got = OnnxRuntimeBackend(tmp_path / "rounded.onnx", reference=True).infer({"x": x})
    h, k = x.astype(np.float16), np.float16(1000.3)
    with np.errstate(over="ignore"):
        b = np.maximum(h * k, np.float16(0))
        np.testing.assert_array_equal(got["c"], b / k)
        np.testing.assert_array_equal(got["far"], b * k)
    assert np.isinf(got["far"]).any()
    np.testing.assert_array_equal(got["e"], x * np.float32(1000.3) / np.float32(1000.3))


def test_rounding_leaves_no_fp16_but_between_its_own_casts(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    path = load_bundle(tiny_bundle).for_scheme(Scheme.TENSORRT).model_path
    model = load_model(path)
    found = fp32_fallback(model.graph, everything)
    write_fp16(model.graph, lambda name: name not in found)
    save_model(model, tmp_path / "fp16.onnx")
    typed = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "fp16.onnx")).graph
    fp16 = onnx.TensorProto.FLOAT16
    tensors = {v.name for v in typed.value_info if v.type.tensor_type.elem_type == fp16}
    tensors &= {name for node in typed.node for name in node.output}
    assert round_as_fp16(model.graph) == len(tensors)
    assert round_as_fp16(load_model(path).graph) == 0
    save_model(model, tmp_path / "rounded.onnx")
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "rounded.onnx")).graph
    low = {v.name for v in graph.value_info if v.type.tensor_type.elem_type == fp16}
    made = {name: node for node in graph.node for name in node.output}
    assert {made[name].op_type for name in low} == {"Cast"}
    assert {node.op_type for node in graph.node if low & set(node.input)} == {"Cast"}
    assert {made[name].input[0] if name not in tensors else name for name in low} == tensors
