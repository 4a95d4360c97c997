"""Where Q/DQ goes: which nodes compute in INT8, and which tensors are rounded for them.

Every scheme quantizes the operators with trained weights: Conv, Gemm, MatMul. Everything else of
the graph (normalisations, softmax, score maps, the head's cosine) multiplies two variables or sums
squares, where eight bits lose more than time is won, and stays high.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.artifacts.plan import PrecisionPlan
from segclip_deploy.artifacts.scheme import Precision, Scheme
from segclip_deploy.calibration.calibrate import Probes
from segclip_deploy.errors import BadArtifact, BadInput, StaleArtifact, command

if TYPE_CHECKING:
    from segclip_deploy.export.onnx_types import OnnxGraph, OnnxNode, OnnxValue

__all__ = [
    "Placement",
    "find_probes",
    "is_wide",
    "place",
    "place_plan",
    "uniform_plan",
    "weight_axis",
]

_OPERATORS = ("Conv", "Gemm", "MatMul")
_MIN_CHANNELS = 16
"""Fewer inputs and outputs than an INT8 tile has rows: padded to it, nothing is won."""


@dataclass(frozen=True)
class Placement:
    """What gets Q/DQ.

    Attributes:
        reads: (node, input index) pairs whose activation is rounded.
        weights: (node, input index, output-channel axis) of the constants that become INT8.
    """

    reads: tuple[tuple[str, int], ...]
    weights: tuple[tuple[str, int, int], ...]

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes that multiply in INT8."""
        return frozenset(node for node, _, _ in self.weights)


def place(graph: OnnxGraph, scheme: Scheme, chosen: Callable[[str], bool]) -> Placement:
    """Decide where Q/DQ goes.

    Args:
        graph: in FP32.
        scheme: Q/DQ stands on what operators read. Of a residual Add, on the skip input alone, so that
            it fuses with the convolution before it; or on both, so that all of a block stays in INT8.
        chosen: node name → whether a plan wants it in INT8.
    """
    reads: list[tuple[str, int]] = []
    weights: list[tuple[str, int, int]] = []
    operators: dict[str, int] = {}  # by when they are computed
    for node in graph:
        name = node.name
        if not chosen(name):
            continue
        if (axis := weight_axis(node)) is not None:
            reads.append((name, 0))
            weights.append((name, 1, axis))
            operators[name] = len(operators)
        elif node.op_type == "Add":
            producers = [_producer(value) for value in node.inputs]
            made = [p for p in producers if p in operators]
            if None in producers or not made:
                continue
            if scheme.rules.both_addends:
                reads += [(name, 0), (name, 1)]
            else:
                # What the last of them just computed goes on in its accumulator.
                last = max(made, key=operators.__getitem__)
                reads.append((name, 1 - producers.index(last)))
    if scheme.rules.resizes:
        reads += _resized(graph, reads, chosen)
    return Placement(tuple(reads), tuple(weights))


def uniform_plan(
    bundle: Bundle, graph: OnnxGraph, scheme: Scheme, precision: Precision
) -> PrecisionPlan:
    """One precision for everything that can have it.

    What surrounds the network, block ``graph``, stays FP32: pixels are normalised, and labels
    decided, without rounding.

    Args:
        graph: the bundle's.

    Raises:
        BadInput: a precision that the scheme does not have.
    """
    if precision not in scheme.rules.precisions:
        raise BadInput(
            f"{scheme.value.upper()} engines do not compute in {precision.upper()}",
            where=f"--precision {precision} --scheme {scheme.value}",
            fix="use --precision int8; where the processor has BF16, OpenVINO takes it at load",
        )
    latest_first = dict.fromkeys(block_of(node.name) for node in reversed(graph))
    high = scheme.rules.high if precision == "int8" else precision
    able = {block_of(name) for name in place(graph, scheme, lambda _: True).nodes}
    blocks: dict[str, Precision] = {
        name: precision if precision == "int8" and name in able else high
        for name in reversed(latest_first)  # by when a block is done: coarse to fine
    }
    blocks["graph"] = "fp32"
    return PrecisionPlan(scheme, bundle.sha256, blocks)


def place_plan(
    plan: PrecisionPlan, bundle: Bundle, graph: OnnxGraph, *, where: Path = Path("PLAN")
) -> Placement:
    """The placement of a plan that was made for this bundle and names just its blocks.

    Raises:
        BadArtifact: a block is missing, none of the model's, or INT8 with nothing that can be.
        StaleArtifact: it was made for another bundle.
    """
    if plan.bundle != bundle.sha256:
        raise StaleArtifact(
            f"made for another bundle than {bundle.path}",
            where=where,
            fix=command(
                "segclip-deploy",
                *("plan", bundle.path, "--table", "TABLE", "--eval", "DATASET"),
                *("--scheme", plan.scheme.value, "-o", where),
            ),
        )
    wanted = list(dict.fromkeys(block_of(node.name) for node in graph))
    for name in sorted({*wanted} ^ {*plan.blocks}):
        what = "is missing" if name in wanted else "is no block of this model"
        raise BadArtifact(f"{name} {what}", where=where, fix=f"its blocks: {', '.join(wanted)}")
    placement = place(graph, plan.scheme, plan.int8)
    able = {block_of(name) for name in placement.nodes}
    for name in plan.int8_blocks:
        if name not in able:
            raise BadArtifact(
                f"{name} has no operator with trained weights, nothing in it can be int8",
                where=where,
                fix=f"write {name}: {plan.scheme.rules.high}",
            )
    return placement


def find_probes(
    graph: OnnxGraph,
    schemes: Iterable[Scheme] = tuple(Scheme),
    trained_for_int8: Collection[str] = (),
) -> Probes:
    """Where a graph is measured so that any plan can be written into it.

    Args:
        graph: in FP32.
        schemes: that plans for it may be of.
        trained_for_int8: blocks whose weights were trained with the rounding: their biases need no
            correction, and so no means.
    """
    nodes = {node.name: node for node in graph}
    reads = [read for scheme in schemes for read in place(graph, scheme, lambda _: True).reads]
    untrained = place(graph, Scheme.TENSORRT, lambda name: block_of(name) not in trained_for_int8)
    return Probes(
        tensors=tuple(dict.fromkeys(nodes[name].inputs[index].name for name, index in reads)),
        operators={
            name: (nodes[name].inputs[0].name, 1 if nodes[name].op_type == "Conv" else -1)
            for name, _, _ in untrained.weights
        },
    )


def weight_axis(node: OnnxNode) -> int | None:
    """The output-channel axis of a node's trained weight; None where it has none worth INT8."""
    if (
        node.op_type not in _OPERATORS or block_of(node.name) == "graph"
    ):  # no weights of the network
        return None
    read, constant = node.inputs[0].const_value, node.inputs[1].const_value
    if constant is None or read is not None:
        return None
    weight = constant.numpy()
    if node.op_type == "Conv":
        axis = 0
    elif weight.ndim != 2:
        return None
    else:
        transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) != 0
        axis = 0 if transposed else 1
    depthwise = node.op_type == "Conv" and weight.shape[1] == 1
    if not is_wide(weight.shape, axis, depthwise=depthwise):
        return None
    # Sums over channels are written as MatMul with zeros and ones: structure, not weights.
    return None if np.isin(weight, (0, 1)).all() else axis


def is_wide(shape: Sequence[int], axis: int, *, depthwise: bool) -> bool:
    """Whether a weight of this shape, its output channels along an axis, is worth INT8."""
    taps = int(np.prod(shape)) // shape[axis]
    return shape[axis] >= _MIN_CHANNELS and (depthwise or taps >= _MIN_CHANNELS)


def _resized(
    graph: OnnxGraph, reads: Collection[tuple[str, int]], chosen: Callable[[str], bool]
) -> list[tuple[str, int]]:
    """What every Resize reads whose result is read rounded alone: so it stays in INT8 on both sides."""
    return [
        (node.name, 0)
        for node in graph
        if node.op_type == "Resize"
        and chosen(node.name)
        and (uses := list(node.outputs[0].uses()))
        and all((user.name, index) in reads for user, index in uses)
    ]


def _producer(value: OnnxValue | None) -> str | None:
    """The node an Add's input comes from; None for constants and inputs."""
    node = None if value is None else value.producer()
    return None if node is None else node.name
