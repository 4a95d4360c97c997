"""FP16: which nodes must stay FP32, and the casts around those that need not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from segclip_deploy._optional import require
from segclip_deploy.artifacts.onnx_file import block_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from segclip_deploy.export.onnx_types import OnnxGraph, OnnxNode, OnnxValue

    _Casts = dict[tuple[ir.Value, ir.DataType], ir.Value]

__all__ = ["FP16_MAX", "fp32_fallback", "overflow_fallback", "write_fp16"]

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
    "Sqrt": "of a sum of squares, with an ε below FP16",
}


def fp32_fallback(graph: OnnxGraph, low: Callable[[str], bool]) -> dict[str, str]:
    """Nodes that stay FP32 in FP16 blocks by what they compute, and why.

    Args:
        graph: in FP32.
        low: node name → whether its block is to be FP16.
    """
    found: dict[str, str] = {}
    for node in graph:
        reason = _REASONS.get(node.op_type) or _squares(node) or _outside(node)
        if reason and low(node.name):
            found[node.name] = reason
        if node.op_type == "Softmax" and (size := _length(node)) > _LONG:
            # A shorter one takes the maximum first: all its exponentials are at most 1.
            if low(node.name):
                found[node.name] = f"a sum over {size} exponentials"
            for summed in _until_operator(node):
                if low(summed):
                    found.setdefault(summed, f"weights of a softmax over {size} pixels")
    # A node between two fallback layers of a block would be cast down and up again.
    after, before = _reach(graph, found, forward=True), _reach(graph, found, forward=False)
    for node in graph:
        if node.name in after & before and low(node.name):
            found.setdefault(node.name, "between two of these")
    return found


def overflow_fallback(
    graph: OnnxGraph, absmax: Mapping[str, tuple[float, str]], low: Callable[[str], bool]
) -> dict[str, str]:
    """Nodes whose values come too near the largest FP16 number, and which tile showed it.

    Args:
        absmax: tensor → (largest magnitude, tile).
    """
    found = {}
    for node in graph:
        for tensor in (v.name for v in (*node.inputs, *node.outputs) if v is not None):
            top, tile = absmax.get(tensor, (0.0, ""))
            if low(node.name) and not top * _HEADROOM <= FP16_MAX:
                found[node.name] = f"{tensor} reaches {top:.3g} on {tile}"
    return found


def write_fp16(graph: OnnxGraph, low: Callable[[str], bool]) -> None:
    """Turn nodes into FP16 and cast where the precision changes, in place.

    Args:
        graph: in FP32, with or without Q/DQ.
        low: node name → FP16; never asked of Q/DQ, which follow what they stand between.
    """
    require("onnx_ir", why="quantization")
    import onnx_ir as ir

    fp16 = {
        node.name
        for node in graph
        if node.op_type not in _KEPT
        and any(v is not None and v.dtype == ir.DataType.FLOAT for v in node.inputs)
        and low(node.name)
    }
    for node in graph:
        if node.op_type == "DequantizeLinear":
            # For Conv and MatMul, which are FP16 if any of them is.
            if all(user.name in fp16 for user in node.outputs[0].consumers()):
                fp16.add(node.name)
        elif node.op_type == "QuantizeLinear" and _made_by(node.inputs[0], fp16):
            fp16.add(node.name)
    casts: _Casts = {}
    for node in graph:  # a cast goes before the node that reads it: no cast comes up here
        wanted = ir.DataType.FLOAT16 if node.name in fp16 else ir.DataType.FLOAT
        for index, value in enumerate(node.inputs):
            if value is None or _fixed(node, index):
                continue
            if value.const_value is not None:
                if wanted == ir.DataType.FLOAT16 and value.dtype == ir.DataType.FLOAT:
                    node.replace_input_with(index, _fp16_constant(graph, value.name))
            elif value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16) and value.dtype != wanted:
                node.replace_input_with(index, _cast(graph, value, wanted, casts))
        if node.name in fp16 and node.op_type != "QuantizeLinear":
            for value in node.outputs:
                if value.dtype == ir.DataType.FLOAT:
                    value.type = ir.TensorType(wanted)
    _take_names_over(graph)
    for index, output in enumerate(list(graph.outputs)):
        if output.dtype == ir.DataType.FLOAT16:
            name = output.name
            cast = _cast(graph, output, ir.DataType.FLOAT, casts)
            output.name, cast.name = f"{name}.fp16", name
            graph.outputs[index] = cast


_COPY = ".fp16"
_KEPT = ("Cast", "QuantizeLinear", "DequantizeLinear")


def _fixed(node: OnnxNode, index: int) -> bool:
    """Inputs whose type does not follow the node's."""
    return node.op_type == "Resize" and index == 2


def _outside(node: OnnxNode) -> str:
    """Which constant of a node FP16 does not hold; ``""`` if it holds all.

    Too small counts only in a scalar, an ε or a bound: among weights it is as good as zero.
    """
    for index, value in enumerate(node.inputs):
        if value is None or value.const_value is None or _fixed(node, index):
            continue
        array = value.const_value.numpy()
        if array.dtype != np.float32 or not array.size:
            continue
        largest = array.flat[np.abs(array).argmax()]
        if not abs(largest) <= FP16_MAX:
            return f"its constant {largest:.3g} is above FP16's largest number"
        if array.size == 1 and 0 < abs(largest) < _FP16_NORMAL:
            return f"its constant {largest:.3g} is below FP16's normal numbers"
    return ""


def _squares(node: OnnxNode) -> str:
    """Whether a product is of a tensor with itself."""
    return _REASONS["Pow"] if node.op_type == "Mul" and node.inputs[0] is node.inputs[1] else ""


def _made_by(value: OnnxValue, nodes: set[str]) -> bool:
    producer = value.producer()
    return producer is not None and producer.name in nodes


def _cast(graph: ir.Graph, value: ir.Value, to: ir.DataType, made: _Casts) -> ir.Value:
    import onnx_ir as ir

    if (value, to) not in made:
        suffix = "fp16" if to == ir.DataType.FLOAT16 else "fp32"
        cast = ir.val(f"{value.name}.{suffix}", to, value.shape)
        name = f"{value.name}/Cast.{suffix}"
        node = ir.node("Cast", [value], {"to": int(to)}, outputs=[cast], name=name)
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], node)
        else:
            graph.insert_after(producer, node)
        made[value, to] = cast
    return made[value, to]


def _fp16_constant(graph: OnnxGraph, name: str) -> ir.Value:
    """The FP16 copy of a constant."""
    import onnx_ir as ir

    if (copy := name + _COPY) in graph.initializers:
        return graph.initializers[copy]
    with np.errstate(over="ignore"):
        lower = graph.initializers[name].const_value.numpy().astype(np.float16)
    if not np.isfinite(lower).all():
        raise AssertionError(f"constant {name} does not fit FP16")
    return ir.tape.Tape(graph).initializer(ir.tensor(lower), copy)


def _take_names_over(graph: OnnxGraph) -> None:
    """A copy gets the name of its original once nothing reads that: ``text.*`` stays ``text.*``."""
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]
    for name, value in list(graph.initializers.items()):
        original = name.removesuffix(_COPY)
        if original not in graph.initializers:
            value.name = original


def _length(softmax: OnnxNode) -> int:
    size = softmax.inputs[0].shape[softmax.attributes.get_int("axis", -1)]
    return size if isinstance(size, int) else 0


def _until_operator(node: OnnxNode) -> Iterator[str]:
    """Nodes after this one, up to and with the operators that sum its values up."""
    for user in node.outputs[0].consumers():
        yield user.name
        if user.op_type not in ("MatMul", "Gemm", "Conv"):
            yield from _until_operator(user)


def _reach(graph: OnnxGraph, start: Mapping[str, str], *, forward: bool) -> set[str]:
    """Nodes that fallback layers of the same block lead to (or that lead to them), without weights."""
    reached: set[str] = set()
    for node in graph if forward else reversed(graph):
        if any(
            block_of(other.name) == block_of(node.name)
            and (other.name in start or other.name in reached)
            for other in (node.predecessors() if forward else node.successors())
        ):
            reached.add(node.name)
    return reached
