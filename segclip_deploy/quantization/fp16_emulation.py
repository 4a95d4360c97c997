"""FP16 on a CPU: FP32 that rounds where FP16 would, so that its noise and overflow are seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segclip_deploy._optional import require

if TYPE_CHECKING:
    import onnx_ir as ir

    from segclip_deploy.export.onnx_types import OnnxGraph

__all__ = ["round_as_fp16"]


def round_as_fp16(graph: OnnxGraph) -> int:
    """Turn a graph with FP16 into one in FP32 that rounds every FP16 tensor, in place.

    ONNX Runtime has no FP16 kernels for an x86-64 CPU: it computes in FP32 and leaves out the casts in
    between, so that nothing is rounded and nothing overflows. A tensor that is written out as
    cast to FP16 and back is rounded. Sums within an operator stay FP32, as in TensorRT; what is
    dequantized is not rounded, it goes into an INT8 operator as it is.

    Args:
        graph: with FP32 outputs, from ``write_fp16``.

    Returns:
        How many tensors are rounded.
    """
    require("onnx_ir", why="quantization")
    import onnx_ir as ir

    fp16, fp32 = ir.TensorType(ir.DataType.FLOAT16), ir.TensorType(ir.DataType.FLOAT)
    for constant in graph.initializers.values():
        if constant.type == fp16:
            array = constant.const_value.numpy().astype(np.float32)
            constant.const_value, constant.type = ir.tensor(array, name=constant.name), fp32
    count = 0
    for node in list(graph):
        for value in node.outputs:
            if value.type != fp16:
                continue
            if node.op_type == "DequantizeLinear":
                value.type = fp32
                continue
            readers, last, rounded = list(value.uses()), node, value
            if node.op_type != "Cast":
                value.type = fp32
                last, rounded = _cast(last, value, fp16, "rounded")
            _, back = _cast(last, rounded, fp32, "back")
            for reader, index in readers:
                reader.replace_input_with(index, back)
            count += 1
    return count


def _cast(
    after: ir.Node, value: ir.Value, kind: ir.TensorType, suffix: str
) -> tuple[ir.Node, ir.Value]:
    """The node and its output."""
    import onnx_ir as ir

    name = f"{value.name}.{suffix}"
    output = ir.val(name, shape=value.shape, type=kind)
    node = ir.node("Cast", [value], {"to": int(kind.dtype)}, outputs=[output], name=f"{name}/Cast")
    assert after.graph is not None
    after.graph.insert_after(after, node)
    return node, output
