"""FP16: which nodes must stay FP32, and the casts around those that need not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from segclip_deploy._optional import require
from segclip_deploy.artifacts.onnx_file import block_of

__all__ = ["FP16_MAX", "islands", "overflow_islands", "write_fp16"]

FP16_MAX = 65504.0
_HEADROOM = 2.0
"""Values in flight may be larger than on the tiles that were looked at."""
_FP16_NORMAL = 2.0**-14
"""Smaller numbers lose bits, and FP16 ends at 6e-8; hardware may take them for zero."""
_LONG = 1024
"""A mean weight of a softmax over more is below 1e-3, with few bits left above FP16's 6e-5."""

_REASONS = {
    "Exp": "exp(12) overflows",
    "GroupNormalization": "sums squares",
    "InstanceNormalization": "sums squares",
    "LayerNormalization": "sums squares",
    "LogSoftmax": "the logarithm of small numbers",
    "Pow": "squares overflow from 256",
    "Reciprocal": "divides by what may be small",
    "ReduceL2": "sums squares",
    "ReduceMean": "a long sum",
    "ReduceSum": "a long sum",
    "Softmax": "a quotient of exponentials",
    "Sqrt": "of a sum of squares, with an ε below FP16",
}


def islands(graph: Any, low: Callable[[str], bool]) -> dict[str, str]:
    """Nodes that stay FP32 in FP16 blocks by what they compute, and why.

    Args:
        graph: an ``onnx_ir.Graph`` in FP32.
        low: node name → whether its block is to be FP16.
    """
    found: dict[str, str] = {}
    for node in graph:
        reason = _REASONS.get(node.op_type) or _outside(node)
        if reason and low(node.name):
            found[node.name] = reason
        if node.op_type == "Softmax" and (size := _length(node)) > _LONG:
            for name in _until_product(node):
                if low(name):
                    found.setdefault(name, f"weights of a softmax over {size} pixels")
    # A node between two islands of a block would be cast down and up again.
    after, before = _reach(graph, found, forward=True), _reach(graph, found, forward=False)
    for node in graph:
        if node.name in after & before and low(node.name):
            found.setdefault(node.name, "between two of these")
    return found


def overflow_islands(
    graph: Any, extremes: Mapping[str, tuple[float, str]], low: Callable[[str], bool]
) -> dict[str, str]:
    """Nodes whose values come too near the largest FP16 number, and which tile showed it.

    Args:
        extremes: tensor → (largest magnitude, tile).
    """
    found = {}
    for node in graph:
        for value in (*node.inputs, *node.outputs):
            top, tile = extremes.get(value.name if value is not None else "", (0.0, ""))
            if low(node.name) and not top * _HEADROOM <= FP16_MAX:
                found[node.name] = f"{value.name} reaches {top:.3g} on {tile}"
    return found


def write_fp16(graph: Any, low: Callable[[str], bool]) -> None:
    """Turn nodes into FP16 and cast where the precision changes, in place.

    Args:
        graph: an ``onnx_ir.Graph`` in FP32, with or without Q/DQ.
        low: node name → FP16; never asked of Q/DQ, which follow what they stand between.
    """
    ir = require("onnx_ir", why="quantization")
    half = {
        node.name
        for node in graph
        if node.op_type not in _KEPT
        and any(v is not None and v.dtype == ir.DataType.FLOAT for v in node.inputs)
        and low(node.name)
    }
    for node in list(graph):
        if node.op_type == "DequantizeLinear":  # for products, and these are FP16 if any are
            if all(user.name in half for user, _ in node.outputs[0].uses()):
                half.add(node.name)
        elif node.op_type == "QuantizeLinear" and _made_by(node.inputs[0], half):
            half.add(node.name)
    casts: dict[tuple[str, Any], Any] = {}
    for node in list(graph):
        wanted = ir.DataType.FLOAT16 if node.name in half else ir.DataType.FLOAT
        for index, value in enumerate(node.inputs):
            if value is None or _fixed(node, index):
                continue
            if value.const_value is not None:
                if wanted == ir.DataType.FLOAT16 and value.dtype == ir.DataType.FLOAT:
                    node.replace_input_with(index, _half_constant(ir, graph, value))
            elif value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16) and value.dtype != wanted:
                node.replace_input_with(index, _cast(ir, graph, value, wanted, casts))
        if node.name in half and node.op_type != "QuantizeLinear":
            for value in node.outputs:
                if value.dtype == ir.DataType.FLOAT:
                    value.type = ir.TensorType(wanted)
    _take_names_over(graph)
    for index, value in enumerate(list(graph.outputs)):
        if value.dtype == ir.DataType.FLOAT16:
            name = value.name
            cast = _cast(ir, graph, value, ir.DataType.FLOAT, casts)
            value.name, cast.name = f"{name}.fp16", name
            graph.outputs[index] = cast


_COPY = ".fp16"
_KEPT = ("Cast", "QuantizeLinear", "DequantizeLinear")


def _fixed(node: Any, index: int) -> bool:
    """Inputs whose type does not follow the node's."""
    return node.op_type == "Resize" and index == 2


def _outside(node: Any) -> str:
    """Which constant of a node FP16 does not hold; ``""`` if it holds all.

    Too small counts only in a scalar, an ε or a bound: among weights it is as good as zero.
    """
    for index, value in enumerate(node.inputs):
        if value is None or value.const_value is None or _fixed(node, index):
            continue
        array = value.const_value.numpy()
        if array.dtype != np.float32 or not array.size:
            continue
        extreme = array.flat[np.abs(array).argmax()]
        if not abs(extreme) <= FP16_MAX:
            return f"its constant {extreme:.3g} is above FP16's largest number"
        if array.size == 1 and 0 < abs(extreme) < _FP16_NORMAL:
            return f"its constant {extreme:.3g} is below FP16's normal numbers"
    return ""


def _made_by(value: Any, nodes: set[str]) -> bool:
    producer = value.producer()
    return producer is not None and producer.name in nodes


def _cast(ir: Any, graph: Any, value: Any, to: Any, made: dict[tuple[str, Any], Any]) -> Any:
    if (value.name, to) not in made:
        suffix = "fp16" if to == ir.DataType.FLOAT16 else "fp32"
        node = ir.node("Cast", [value], {"to": int(to)}, name=f"{value.name}/Cast.{suffix}")
        node.outputs[0].name = f"{value.name}.{suffix}"
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(to), value.shape
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], node)
        else:
            graph.insert_after(producer, node)
        made[value.name, to] = node.outputs[0]
    return made[value.name, to]


def _half_constant(ir: Any, graph: Any, value: Any) -> Any:
    """The FP16 copy of a constant."""
    name = value.name + _COPY
    if name in graph.initializers:
        return graph.initializers[name]
    array = value.const_value.numpy()
    with np.errstate(over="ignore"):
        lower = array.astype(np.float16)
    if not np.isfinite(lower).all():
        raise AssertionError(f"constant {value.name} does not fit FP16")
    tensor = ir.tensor(lower, name=name)
    copy = ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=value.shape,
        const_value=tensor,
    )
    graph.register_initializer(copy)
    return copy


def _take_names_over(graph: Any) -> None:
    """A copy gets the name of its original once nothing reads that: ``text.*`` stays ``text.*``."""
    for value in list(graph.initializers.values()):
        if not value.uses():
            del graph.initializers[value.name]
    for value in list(graph.initializers.values()):
        original = value.name.removesuffix(_COPY)
        if original not in graph.initializers:
            value.name = original


def _length(softmax: Any) -> int:
    shape = softmax.inputs[0].shape
    size = shape[softmax.attributes.get_int("axis", -1)]
    return size if isinstance(size, int) else 0


def _until_product(node: Any) -> Iterator[str]:
    """Nodes after this one, up to and with the products that sum its values up."""
    for user, _ in node.outputs[0].uses():
        yield user.name
        if user.op_type not in ("MatMul", "Gemm", "Conv"):
            yield from _until_product(user)


def _reach(graph: Any, start: Mapping[str, str], *, forward: bool) -> set[str]:
    """Nodes that islands of the same block lead to (or that lead to them), without weights."""
    reached: set[str] = set()
    for node in graph if forward else reversed(graph):
        neighbours = (
            [v.producer() for v in node.inputs if v is not None]
            if forward
            else [user for out in node.outputs for user, _ in out.uses()]
        )
        if any(
            n is not None
            and block_of(n.name) == block_of(node.name)
            and (n.name in start or n.name in reached)
            for n in neighbours
        ):
            reached.add(node.name)
    return reached
