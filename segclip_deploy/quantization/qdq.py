"""Writing a placement into an ONNX graph: Q/DQ pairs with given ranges, weights in INT8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.calibration.table import Range
from segclip_deploy.quantization.bias import mean_shift
from segclip_deploy.quantization.placement import Placement

if TYPE_CHECKING:
    import onnx_ir as ir

    from segclip_deploy.export.onnx_types import OnnxConstant, OnnxGraph, OnnxNode, OnnxValue

__all__ = ["scale_of", "storable", "write_qdq"]


def scale_of(span: Range, scheme: Scheme) -> tuple[NDArray[np.float32], NDArray[np.integer[Any]]]:
    """Scale and zero point, both scalar arrays, of an activation's range.

    Symmetric S8, or U8 from low to high; zero is always a level, for padding.
    """
    top = scheme.rules.levels[1]
    if scheme.rules.symmetric:
        return storable(np.asarray(span.magnitude / top), scheme), np.asarray(0, np.int8)
    low, high = min(span.low, 0.0), max(span.high, 0.0)
    scale = storable(np.asarray((high - low) / top), scheme)
    return scale, np.asarray(np.clip(np.rint(-low / scale), 0, top), np.uint8)


def write_qdq(
    graph: OnnxGraph,
    placement: Placement,
    ranges: Mapping[str, Range],
    scheme: Scheme,
    means: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> None:
    """Insert Q/DQ and correct the biases, in place.

    One pair a tensor, read by the nodes of the placement only: others keep the unrounded value.

    Args:
        graph: in FP32.
        placement: from ``place`` on the same graph.
        ranges: by tensor name.
        scheme: how activations are rounded; weights are symmetric S8 per output channel.
        means: of the channels an operator reads, by node; the bias of one without is left alone.
    """
    require("onnx_ir", why="quantization")
    nodes = {node.name: node for node in graph}
    rounded: dict[str, ir.Value] = {}
    for name, index in placement.reads:
        node = nodes[name]
        value = node.inputs[index]
        if value.name not in rounded:
            scale, zero = scale_of(ranges[value.name], scheme)
            rounded[value.name] = _pair(graph, value, scale, zero)
        node.replace_input_with(index, rounded[value.name])
    quantized: dict[str, tuple[ir.Value, NDArray[np.float32]]] = {}
    for name, index, axis in placement.weights:
        node = nodes[name]
        weight = graph.initializers[node.inputs[index].name]
        if weight.name not in quantized:
            quantized[weight.name] = _weight(graph, node, weight, axis, scheme)
        rounded_weight, error = quantized[weight.name]
        if name in means:
            _correct_bias(graph, node, mean_shift(node, error, axis, np.array(means[name])))
        node.replace_input_with(index, rounded_weight)
        if not weight.uses():
            del graph.initializers[weight.name]


def _pair(
    graph: OnnxGraph, value: OnnxValue, scale: NDArray[np.float32], zero: NDArray[np.integer[Any]]
) -> ir.Value:
    """A tensor as it comes back from its rounding."""
    import onnx_ir as ir

    tape = ir.tape.Tape(graph)
    constants = [
        tape.initializer(ir.tensor(scale), f"{value.name}.scale"),
        tape.initializer(ir.tensor(zero), f"{value.name}.zero"),
    ]
    integer = ir.val(f"{value.name}.quantized", constants[1].dtype, value.shape)
    real = ir.val(f"{value.name}.dequantized", value.dtype, value.shape)
    quantize = ir.node(
        "QuantizeLinear", [value, *constants], outputs=[integer], name=f"{value.name}/Q"
    )
    dequantize = ir.node(
        "DequantizeLinear", [integer, *constants], outputs=[real], name=f"{value.name}/DQ"
    )
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], (quantize, dequantize))
    else:
        graph.insert_after(producer, (quantize, dequantize))
    return real


def _weight(
    graph: OnnxGraph, reader: OnnxNode, value: OnnxConstant, axis: int, scheme: Scheme
) -> tuple[ir.Value, NDArray[np.float32]]:
    """The weight as it comes back from INT8, and how far each element of it is off."""
    import onnx_ir as ir

    weight = value.const_value.numpy()
    levels, scale = _levels(weight, axis, scheme)
    tape = ir.tape.Tape(graph)
    constants = [
        tape.initializer(ir.tensor(levels), f"{value.name}.int8"),
        tape.initializer(ir.tensor(scale.ravel()), f"{value.name}.scale"),
        tape.initializer(ir.tensor(np.zeros(scale.size, np.int8)), f"{value.name}.zero"),
    ]
    real = ir.val(f"{value.name}.dequantized", value.dtype, value.shape)
    node = ir.node(
        "DequantizeLinear", constants, {"axis": axis}, outputs=[real], name=f"{value.name}/DQ"
    )
    graph.insert_before(reader, node)
    return real, levels * scale - weight


def _levels(
    weight: NDArray[np.float32], axis: int, scheme: Scheme
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """S8 levels, and the scale of each output channel along its axis."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    top = scheme.rules.weight_limit
    scale = storable(np.abs(weight).max(axis=others, keepdims=True) / top, scheme)
    return np.clip(np.rint(weight / scale), -top, top).astype(np.int8), scale


def storable(scale: NDArray[Any], scheme: Scheme) -> NDArray[np.float32]:
    """Scales as they can be stored: beside FP16 they are FP16, none becomes zero or infinite."""
    stored = np.finfo(np.float16 if scheme.rules.high == "fp16" else np.float32)
    return np.clip(scale, stored.tiny, stored.max).astype(stored.dtype).astype(np.float32)


def _correct_bias(graph: OnnxGraph, node: OnnxNode, shift: NDArray[np.float64]) -> None:
    """Take a shift (O,) out of what an operator computes, in place; a Conv or Gemm may get a bias by it.

    A MatMul has its bias in the Add that reads it. One without is left as it is: an Add of its own
    would cost more than it mends.
    """
    import onnx_ir as ir

    found = (node, 2) if node.op_type != "MatMul" else _sum_after(node)
    if found is None:
        return
    reader, index = found
    beta = reader.attributes.get_float("beta", 1.0)  # of a Gemm
    old = reader.inputs[index] if len(reader.inputs) > index else None
    bias = (0 if old is None else graph.initializers[old.name].const_value.numpy()) - shift / beta
    value = ir.tape.Tape(graph).initializer(ir.tensor(bias.astype(np.float32)), f"{node.name}.bias")
    reader.resize_inputs(max(len(reader.inputs), index + 1))
    reader.replace_input_with(index, value)
    if old is not None and not old.uses():
        del graph.initializers[old.name]


def _sum_after(operator: OnnxNode) -> tuple[OnnxNode, int] | None:
    """The Add of a constant that alone reads an operator, and which of its inputs that is; else None."""
    output = operator.outputs[0]
    uses = [] if output.is_graph_output() else list(output.uses())
    if len(uses) == 1 and uses[0][0].op_type == "Add":
        reader, index = uses[0]
        if reader.inputs[1 - index].const_value is not None:
            return reader, 1 - index
    return None
