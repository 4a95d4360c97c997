"""Bias correction: what rounded weights add to an output on average is taken back in its bias.

With rounding errors ε of its weights an operator computes Σ (w + ε) x. What they add has a mean,
Σ ε E[x], that is one constant for each output channel (Nagel et al., 2019, arXiv:1906.04721,
section 4.2). E[x] is measured on the calibration tiles. That a border reads padding is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["mean_shift"]


def mean_shift(
    node: ir.Node, error: NDArray[np.float32], axis: int, means: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What the errors of an operator's weights add to each output channel on average, (O,).

    Args:
        node: the operator.
        error: rounded weights less the trained ones, in their shape.
        axis: of the output channels.
        means: of the channels that the operator sums over, (C,).
    """
    if node.op_type != "Conv":
        return (error if axis == 0 else error.T) @ means
    groups = node.attributes.get_int("group", 1)
    by_group = error.reshape(groups, len(error) // groups, error.shape[1], -1).sum(-1)
    return np.einsum("goi,gi->go", by_group, means.reshape(groups, -1)).ravel()
