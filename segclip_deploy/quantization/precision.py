"""Writing a plan into a model: INT8 as Q/DQ, FP16 as casts, FP32 where FP16 would not do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segclip_deploy.artifacts.plan import PrecisionPlan
from segclip_deploy.artifacts.scheme import Precision
from segclip_deploy.calibration.table import GraphStatistics
from segclip_deploy.errors import BadInput
from segclip_deploy.quantization.fp16 import fp32_fallback, overflow_fallback, write_fp16
from segclip_deploy.quantization.placement import Placement
from segclip_deploy.quantization.qdq import write_qdq

if TYPE_CHECKING:
    from segclip_deploy.export.onnx_types import OnnxModel

__all__ = ["AppliedPrecision", "write_precision"]


@dataclass(frozen=True)
class AppliedPrecision:
    """What was done to a graph.

    Attributes:
        int8: nodes that multiply in INT8.
        fp16: other nodes that compute in FP16.
        fp32_fallback: nodes that stay FP32 in FP16 blocks, and why.
    """

    int8: frozenset[str]
    fp16: frozenset[str]
    fp32_fallback: Mapping[str, str]

    def precision(self, node: str) -> Precision:
        """What a node multiplies in."""
        if node in self.int8:
            return "int8"
        return "fp16" if node in self.fp16 else "fp32"


def write_precision(
    model: OnnxModel,
    plan: PrecisionPlan,
    placement: Placement,
    statistics: GraphStatistics | None,
    absmax: Mapping[str, tuple[float, str]],
) -> AppliedPrecision:
    """Write a plan into an FP32 model, in place.

    Args:
        model: in FP32.
        plan: for this model.
        placement: of the plan's INT8.
        statistics: of this graph; needed where the plan has INT8.
        absmax: tensor → (largest magnitude, tile), for what would overflow FP16.

    Raises:
        BadInput: INT8 without a table.
    """
    graph = model.graph
    high = {
        **fp32_fallback(graph, plan.fp16),
        **overflow_fallback(graph, absmax, plan.fp16),
    }
    low = {node.name for node in graph if plan.fp16(node.name)} - set(high)
    if placement.weights:
        if statistics is None:
            raise BadInput(
                "INT8 needs a calibration table",
                where="--table",
                fix="segclip-deploy calibrate BUNDLE --tiles DIR -o TABLE",
            )
        write_qdq(graph, placement, statistics.ranges, plan.scheme, statistics.means)
    if low:
        write_fp16(graph, low.__contains__)
    return AppliedPrecision(placement.nodes, frozenset(low) - placement.nodes, high)
