"""Values and nodes of an ``onnx_ir`` graph, without the None that its types allow.

``load_model`` gives every node a name and every tensor a name, a type and a shape. A graph without
them is a mistake in this package, so these functions raise AssertionError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from segclip_deploy._optional import require

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["add_constant", "array_of", "input_of", "is_constant", "name_of", "shape_of"]


def name_of(named: ir.Node | ir.Value) -> str:
    """The name of a node or a tensor."""
    assert named.name is not None
    return named.name


def input_of(node: ir.Node, index: int) -> ir.Value:
    """An input that the operator cannot be without."""
    value = node.inputs[index]
    assert value is not None
    return value


def shape_of(value: ir.Value) -> ir.Shape:
    """The shape of a tensor; an open side is an ``ir.SymbolicDim``."""
    assert value.shape is not None
    return value.shape


def is_constant(value: ir.Value | None) -> bool:
    """Whether an input is there and is a constant."""
    return value is not None and value.const_value is not None


def array_of(value: ir.Value) -> NDArray[Any]:
    """The array of a constant."""
    assert value.const_value is not None
    return value.const_value.numpy()


def add_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Give a graph a constant; an older one of this name must be gone."""
    require("onnx_ir", why="quantization")
    import onnx_ir as ir

    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value
