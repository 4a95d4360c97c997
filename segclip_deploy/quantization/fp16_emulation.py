"""FP16 on a CPU: FP32 that rounds where FP16 would, so that its noise and overflow are seen."""

from __future__ import annotations

from typing import Any

import numpy as np

from segclip_deploy._optional import require

__all__ = ["round_as_fp16"]


def round_as_fp16(graph: Any) -> int:
    """Turn a graph with FP16 into one in FP32 that rounds every FP16 tensor, in place.

    ONNX Runtime has no FP16 kernels for an x86-64 CPU: it computes in FP32 and leaves out the casts in
    between, so that nothing is rounded and nothing overflows. A tensor that is written out as
    cast to FP16 and back is rounded. Sums within a product stay FP32, as in TensorRT; what is
    dequantized is not rounded, it goes into an INT8 product as it is.

    Args:
        graph: an ``onnx_ir.Graph`` with FP32 outputs, from ``write_fp16``.

    Returns:
        How many tensors are rounded.
    """
    ir = require("onnx_ir", why="quantization")
    half, single = ir.TensorType(ir.DataType.FLOAT16), ir.TensorType(ir.DataType.FLOAT)
    for constant in graph.initializers.values():
        if constant.type == half:
            array = constant.const_value.numpy().astype(np.float32)
            constant.const_value, constant.type = ir.tensor(array, name=constant.name), single
    count = 0
    for node in list(graph):
        for value in node.outputs:
            if value.type != half:
                continue
            if node.op_type == "DequantizeLinear":
                value.type = single
                continue
            readers, last, rounded = list(value.uses()), node, value
            if node.op_type != "Cast":
                value.type = single
                last, rounded = _cast(ir, last, value, half, "rounded")
            _, back = _cast(ir, last, rounded, single, "back")
            for reader, index in readers:
                reader.replace_input_with(index, back)
            count += 1
    return count


def _cast(ir: Any, after: Any, value: Any, kind: Any, suffix: str) -> tuple[Any, Any]:
    """The node and its output."""
    name = f"{value.name}.{suffix}"
    node = ir.node("Cast", [value], {"to": int(kind.dtype)}, name=f"{name}/Cast")
    (output,) = node.outputs
    output.name, output.type, output.shape = name, kind, value.shape
    after.graph.insert_after(after, node)
    return node, output
