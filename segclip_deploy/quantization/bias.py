"""Bias correction: what rounded weights add to an output on average is taken back in its bias.

With rounding errors ε of its weights a product computes Σ (w + ε) x. What they add has a mean,
Σ ε E[x], that is one constant for each output channel (Nagel et al., 2019, arXiv:1906.04721,
section 4.2). E[x] is measured on the calibration tiles. That a border reads padding is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy.export.onnx_model import add_constant

__all__ = ["correct_bias", "mean_shift"]


def mean_shift(
    node: Any, error: NDArray[np.float32], axis: int, means: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What the errors of a product's weights add to each output channel on average, (O,).

    Args:
        node: the product.
        error: rounded weights less the trained ones, in their shape.
        axis: of the output channels.
        means: of the channels that the product sums over, (C,).
    """
    if node.op_type != "Conv":
        return (error if axis == 0 else error.T) @ means
    groups = node.attributes.get_int("group", 1)
    by_group = error.reshape(groups, len(error) // groups, error.shape[1], -1).sum(-1)
    return np.einsum("goi,gi->go", by_group, means.reshape(groups, -1)).ravel()


def correct_bias(graph: Any, node: Any, shift: NDArray[np.float64]) -> None:
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
    value = add_constant(graph, f"{node.name}.bias", bias.astype(np.float32))
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
