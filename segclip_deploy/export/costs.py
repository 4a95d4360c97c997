"""What blocks hold and cost: counted in an exported graph, and of text attention plain and folded."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from segclip_deploy._optional import require
from segclip_deploy.artifacts.bundle_record import BlockCost, BlockMacs
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.errors import BadArtifact
from segclip_deploy.export.blocks import blocks_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = [
    "Operator",
    "count_blocks",
    "find_operators",
    "folding_table",
    "fusion_macs",
    "refiner_macs",
]


def count_blocks(path: Path) -> list[BlockCost]:
    """Count the blocks of a float32 ONNX file, in the graph's order.

    Raises:
        BadArtifact: an operator whose shape cannot be inferred.
    """
    require("onnx", why="counting MACs")
    import onnx

    model, shapes, batch = _shapes(path)
    floats = {i.name for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT}
    costs = []
    for block, nodes in blocks_of(model).items():
        read = {name for node in nodes for name in node.input} & floats
        floats -= read
        macs = sum(_macs(node, shapes, path) for node in nodes)
        parameters = sum(prod(shapes[name]) for name in read)
        costs.append(BlockCost(block, parameters, macs // batch, "fp32"))
    return costs


@dataclass(frozen=True)
class Operator:
    """A convolution or matrix product, for one image.

    Attributes:
        name: of the node.
        macs: multiply-accumulates.
        weights: elements of its constants.
        read: elements of each variable input.
        written: elements of its output.
    """

    name: str
    macs: int
    weights: int
    read: tuple[int, ...]
    written: int


def find_operators(path: Path) -> list[Operator]:
    """The convolutions and matrix products of a float32 ONNX file, in the graph's order.

    Raises:
        BadArtifact: one whose shape cannot be inferred.
    """
    model, shapes, batch = _shapes(path)
    constants = {i.name for i in model.graph.initializer}
    operators = []
    for node in model.graph.node:
        macs = _macs(node, shapes, path)
        if macs:
            variable = [name for name in node.input if name and name not in constants]
            operators.append(
                Operator(
                    name=node.name,
                    macs=macs // batch,
                    weights=sum(prod(shapes[n]) for n in node.input if n in constants),
                    read=tuple(prod(shapes[n]) // batch for n in variable),
                    written=prod(shapes[node.output[0]]) // batch,
                )
            )
    return operators


def _shapes(path: Path) -> tuple[ModelProto, dict[str, tuple[int, ...]], int]:
    """A model, the shape of every tensor in it, and the batch these are for."""
    require("onnx", why="counting MACs")
    import onnx

    model = onnx.load(path)
    (image,) = model.graph.input
    batch = image.type.tensor_type.shape.dim[0]
    if not batch.dim_value:  # open: counted for one image
        batch.dim_value = 1
        del model.graph.value_info[:]
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {i.name: tuple(i.dims) for i in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    return model, shapes, batch.dim_value


def _macs(node: NodeProto, shapes: dict[str, tuple[int, ...]], path: Path) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    left, right, out = (shapes.get(n, (0,)) for n in (*node.input[:2], node.output[0]))
    if not prod((*left, *right, *out)):
        raise BadArtifact(f"the shapes of {node.name} cannot be inferred", where=path)
    if node.op_type == "Conv":  # weights (out, in / groups, h, w)
        return prod(out) * prod(right[1:])
    if node.op_type == "ConvTranspose":  # weights (in, out / groups, h, w)
        return prod(left) * prod(right[1:])
    inner = left[0] if any(a.name == "transA" and a.i for a in node.attribute) else left[-1]
    return prod(out) * inner


def fusion_macs(spec: ModelSpec, pixels: int, block: str = "cff") -> BlockMacs:
    """A CFF level over N ``pixels``: both directions, its LayerNorm left out on both sides.

    Plain, each direction projects every pixel twice (2 C²) and multiplies it twice with K
    vectors. Folded, each multiplies it with h·K vectors, twice; the softmax over classes is
    summed by an h·K × h·K convolution.
    """
    width, heads, classes = spec.width, spec.heads, spec.classes
    rows = heads * classes
    plain = pixels * (4 * width**2 + 4 * classes * width) + classes * width**2
    folded = pixels * (4 * rows * width + rows**2) + rows * width**2
    return BlockMacs(block, plain, folded)


def refiner_macs(width: int, heads: int, classes: int, texts: int) -> BlockMacs:
    """The query refiner: K queries look at ``texts`` = K·M constant sentences."""
    plain = classes * (2 * width**2 + 2 * texts * width)
    return BlockMacs("refiner", plain, classes * 2 * heads * texts * width)


def folding_table(spec: ModelSpec, height: int, width: int, texts: int) -> list[BlockMacs]:
    """Every block that text is folded into, for an image of ``height`` × ``width``."""
    table = [
        fusion_macs(spec, (height // s) * (width // s), f"cff.{s}")
        for s in sorted(spec.cff_strides)
    ]
    if spec.refine:
        table.append(refiner_macs(spec.width, spec.heads, spec.classes, texts))
    return table
