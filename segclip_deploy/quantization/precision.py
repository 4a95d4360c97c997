"""Writing a plan into a model: INT8 as Q/DQ, FP16 as casts, FP32 where FP16 would not do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.artifacts.plan import PrecisionPlan
from segclip_deploy.artifacts.scheme import Precision
from segclip_deploy.calibration.table import GraphStatistics
from segclip_deploy.errors import BadInput
from segclip_deploy.quantization.fp16 import fp32_fallback, overflow_fallback, write_fp16
from segclip_deploy.quantization.placement import Placement
from segclip_deploy.quantization.qdq import write_qdq

if TYPE_CHECKING:
    from segclip_deploy.export.onnx_types import OnnxGraph, OnnxModel

__all__ = ["AppliedPrecision", "Place", "write_precision"]

Place = Callable[["OnnxModel", Collection[str]], frozenset[str]]
"""(model, names of nodes to leave as they are) → names of the nodes that multiply in INT8 from now on."""


@dataclass(frozen=True)
class AppliedPrecision:
    """What was done to a graph.

    Attributes:
        blocks: precision by block as it was written. Where nothing of an INT8 block became INT8,
            it is what runs beside it.
        int8: nodes that multiply in INT8.
        fp16: other nodes that compute in FP16.
        fp32_fallback: nodes that stay FP32 in FP16 blocks, and why.
    """

    blocks: Mapping[str, Precision]
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
    place: Place | None = None,
) -> AppliedPrecision:
    """Write a plan into an FP32 model, in place.

    Args:
        model: in FP32.
        plan: for this model.
        placement: of the plan's INT8.
        statistics: of this graph; needed where the plan has INT8.
        absmax: tensor → (largest magnitude, tile), for what would overflow FP16.
        place: inserts Q/DQ otherwise than ``placement`` says; None: ours.

    Raises:
        BadInput: INT8 without a table.
    """
    graph = model.graph
    high = {
        **fp32_fallback(graph, plan.fp16),
        **overflow_fallback(graph, absmax, plan.fp16),
    }
    low = {node.name for node in graph if plan.fp16(node.name)} - set(high)
    int8 = placement.nodes
    if placement.weights:
        if statistics is None:
            raise BadInput(
                "INT8 needs a calibration table",
                where="--table",
                fix="segclip-deploy calibrate BUNDLE --tiles DIR -o TABLE",
            )
        if place is None:
            write_qdq(graph, placement, statistics.ranges, plan.scheme, statistics.means)
        else:
            int8 = place(model, _not_for_int8(model.graph, plan, placement, high))
    if low:
        write_fp16(model.graph, low.__contains__)
    return AppliedPrecision(_written(plan, int8), int8, frozenset(low) - int8, high)


def _not_for_int8(
    graph: OnnxGraph, plan: PrecisionPlan, placement: Placement, high: Collection[str]
) -> list[str]:
    """Nodes outside of INT8 blocks, and what FP16 does not hold: eight bits hold it even less.

    An operator with trained weights is INT8 all the same: it is its output that FP16 does not hold.
    """
    return [
        node.name
        for node in graph
        if not plan.int8(node.name) or (node.name in high and node.name not in placement.nodes)
    ]


def _written(plan: PrecisionPlan, int8: Collection[str]) -> dict[str, Precision]:
    able = {block_of(name) for name in int8}
    return {
        block: plan.scheme.rules.high if precision == "int8" and block not in able else precision
        for block, precision in plan.blocks.items()
    }
