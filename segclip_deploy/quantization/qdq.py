"""Writing a placement into an ONNX graph: Q/DQ pairs with given ranges, weights in INT8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.calibration.table import Range
from segclip_deploy.quantization.bias import mean_shift
from segclip_deploy.quantization.placement import Placement

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
    graph: Any,
    placement: Placement,
    ranges: Mapping[str, Range],
    scheme: Scheme,
    means: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> None:
    """Insert Q/DQ and correct the biases, in place.

    One pair a tensor, read by the nodes of the placement only: others keep the unrounded value.

    Args:
        graph: an ``onnx_ir.Graph`` in FP32.
        placement: from ``place`` on the same graph.
        ranges: by tensor name.
        scheme: how activations are rounded; weights are symmetric S8 per output channel.
        means: of the channels a product reads, by node; the bias of one without is left alone.
    """
    ir = require("onnx_ir", why="quantization")
    nodes = {node.name: node for node in graph}
    rounded: dict[str, Any] = {}
    for name, index in placement.reads:
        node = nodes[name]
        value = node.inputs[index]
        if value.name not in rounded:
            scale, zero = scale_of(ranges[value.name], scheme)
            rounded[value.name] = _pair(ir, graph, value, scale, zero)
        node.replace_input_with(index, rounded[value.name])
    quantized: dict[str, tuple[Any, NDArray[np.float32]]] = {}
    for name, index, axis in placement.weights:
        node = nodes[name]
        value = node.inputs[index]
        if value.name not in quantized:
            quantized[value.name] = _weight(ir, graph, node, value, axis, scheme)
        rounded_weight, error = quantized[value.name]
        if name in means:
            _correct_bias(graph, node, mean_shift(node, error, axis, np.array(means[name])))
        node.replace_input_with(index, rounded_weight)
        if not value.uses():
            del graph.initializers[value.name]


def _pair(
    ir: Any, graph: Any, value: Any, scale: NDArray[np.float32], zero: NDArray[np.integer[Any]]
) -> Any:
    constants = [
        _add_constant(graph, f"{value.name}.scale", scale),
        _add_constant(graph, f"{value.name}.zero", zero),
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
    return _named(ir, quantize, dequantize, value)


def _weight(
    ir: Any, graph: Any, reader: Any, value: Any, axis: int, scheme: Scheme
) -> tuple[Any, NDArray[np.float32]]:
    """The weight as it comes back from INT8, and how far each element of it is off."""
    weight = value.const_value.numpy()
    levels, scale = _levels(weight, axis, scheme)
    constants = [
        _add_constant(graph, f"{value.name}.int8", levels),
        _add_constant(graph, f"{value.name}.scale", scale.ravel()),
        _add_constant(graph, f"{value.name}.zero", np.zeros(scale.size, np.int8)),
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


def _named(ir: Any, quantize: Any, dequantize: Any, value: Any) -> Any:
    integer, real = quantize.outputs[0], dequantize.outputs[0]
    integer.name, real.name = f"{value.name}.quantized", f"{value.name}.dequantized"
    integer.shape = real.shape = value.shape
    integer.type = ir.TensorType(quantize.inputs[2].dtype)
    real.type = value.type = ir.TensorType(ir.DataType.FLOAT)
    return real


def _correct_bias(graph: Any, node: Any, shift: NDArray[np.float64]) -> None:
    """Take a shift (O,) out of what a product computes, in place; a Conv or Gemm may get a bias by it.

    A MatMul has its bias in the Add that reads it. One without is left as it is: an Add of its own
    would cost more than it mends.
    """
    reader, index = (node, 2) if node.op_type != "MatMul" else _sum_after(node)
    if reader is None:
        return
    beta = reader.attributes.get_float("beta", 1.0)  # of a Gemm
    old = reader.inputs[index] if len(reader.inputs) > index else None
    bias = (0 if old is None else old.const_value.numpy()) - shift / beta
    value = _add_constant(graph, f"{node.name}.bias", bias.astype(np.float32))
    reader.resize_inputs(max(len(reader.inputs), index + 1))
    reader.replace_input_with(index, value)
    if old is not None and not old.uses():
        del graph.initializers[old.name]


def _sum_after(product: Any) -> tuple[Any, int]:
    """The Add of a constant that alone reads a product, and which of its inputs that is."""
    output = product.outputs[0]
    uses = [] if output.is_graph_output() else list(output.uses())
    if len(uses) == 1 and uses[0][0].op_type == "Add":
        reader, index = uses[0]
        if reader.inputs[1 - index].const_value is not None:
            return reader, 1 - index
    return None, 0


def _add_constant(graph: Any, name: str, array: NDArray[Any]) -> Any:
    """Give a graph a constant; returns its value."""
    ir = require("onnx_ir", why="quantization")
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value
