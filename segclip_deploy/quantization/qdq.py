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
from segclip_deploy.export.onnx_values import add_constant, array_of, input_of, is_constant, name_of
from segclip_deploy.quantization.bias import mean_shift
from segclip_deploy.quantization.placement import Placement

if TYPE_CHECKING:
    import onnx_ir as ir

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
    graph: ir.Graph,
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
    nodes = {name_of(node): node for node in graph}
    rounded: dict[str, ir.Value] = {}
    for name, index in placement.reads:
        node = nodes[name]
        value = input_of(node, index)
        tensor = name_of(value)
        if tensor not in rounded:
            scale, zero = scale_of(ranges[tensor], scheme)
            rounded[tensor] = _pair(graph, value, scale, zero)
        node.replace_input_with(index, rounded[tensor])
    quantized: dict[str, tuple[ir.Value, NDArray[np.float32]]] = {}
    for name, index, axis in placement.weights:
        node = nodes[name]
        value = input_of(node, index)
        tensor = name_of(value)
        if tensor not in quantized:
            quantized[tensor] = _weight(graph, node, value, axis, scheme)
        rounded_weight, error = quantized[tensor]
        if name in means:
            _correct_bias(graph, node, mean_shift(node, error, axis, np.array(means[name])))
        node.replace_input_with(index, rounded_weight)
        if not value.uses():
            del graph.initializers[tensor]


def _pair(
    graph: ir.Graph, value: ir.Value, scale: NDArray[np.float32], zero: NDArray[np.integer[Any]]
) -> ir.Value:
    import onnx_ir as ir

    constants = [
        add_constant(graph, f"{value.name}.scale", scale),
        add_constant(graph, f"{value.name}.zero", zero),
    ]
    quantize = ir.node("QuantizeLinear", [value, *constants], name=f"{value.name}/Q")
    dequantize = ir.node(
        "DequantizeLinear", [quantize.outputs[0], *constants], name=f"{value.name}/DQ"
    )
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], (quantize, dequantize))
    else:
        graph.insert_after(producer, (quantize, dequantize))
    return _named(quantize, dequantize, value)


def _weight(
    graph: ir.Graph, reader: ir.Node, value: ir.Value, axis: int, scheme: Scheme
) -> tuple[ir.Value, NDArray[np.float32]]:
    """The weight as it comes back from INT8, and how far each element of it is off."""
    import onnx_ir as ir

    weight = array_of(value)
    levels, scale = _levels(weight, axis, scheme)
    constants = [
        add_constant(graph, f"{value.name}.int8", levels),
        add_constant(graph, f"{value.name}.scale", scale.ravel()),
        add_constant(graph, f"{value.name}.zero", np.zeros(scale.size, np.int8)),
    ]
    node = ir.node("DequantizeLinear", constants, {"axis": axis}, name=f"{value.name}/DQ")
    node.outputs[0].name = f"{value.name}.dequantized"
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    graph.insert_before(reader, node)
    return node.outputs[0], levels * scale - weight


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


def _named(quantize: ir.Node, dequantize: ir.Node, value: ir.Value) -> ir.Value:
    import onnx_ir as ir

    integer, real = quantize.outputs[0], dequantize.outputs[0]
    integer.name, real.name = f"{value.name}.quantized", f"{value.name}.dequantized"
    integer.shape = real.shape = value.shape
    integer.type = input_of(quantize, 2).type
    real.type = value.type = ir.TensorType(ir.DataType.FLOAT)
    return real


def _correct_bias(graph: ir.Graph, node: ir.Node, shift: NDArray[np.float64]) -> None:
    """Take a shift (O,) out of what an operator computes, in place; a Conv or Gemm may get a bias by it.

    A MatMul has its bias in the Add that reads it. One without is left as it is: an Add of its own
    would cost more than it mends.
    """
    found = (node, 2) if node.op_type != "MatMul" else _sum_after(node)
    if found is None:
        return
    reader, index = found
    beta = reader.attributes.get_float("beta", 1.0)  # of a Gemm
    old = reader.inputs[index] if len(reader.inputs) > index else None
    bias = (0 if old is None else array_of(old)) - shift / beta
    value = add_constant(graph, f"{node.name}.bias", bias.astype(np.float32))
    reader.resize_inputs(max(len(reader.inputs), index + 1))
    reader.replace_input_with(index, value)
    if old is not None and not old.uses():
        del graph.initializers[name_of(old)]


def _sum_after(operator: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add of a constant that alone reads an operator, and which of its inputs that is; else None."""
    output = operator.outputs[0]
    uses = [] if output.is_graph_output() else list(output.uses())
    if len(uses) == 1 and uses[0][0].op_type == "Add":
        reader, index = uses[0]
        if is_constant(reader.inputs[1 - index]):
            return reader, 1 - index
    return None
