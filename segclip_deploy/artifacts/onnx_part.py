"""Parts of an ONNX graph as models of their own, made without the onnx package."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segclip_deploy.artifacts.onnx_wire import field, fields, members, open_model, text_of
from segclip_deploy.errors import BadArtifact

__all__ = ["Node", "TensorType", "boundary", "nodes", "part", "until"]

# Field numbers of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3
_MODEL_GRAPH = 7
_GRAPH_NODE = 1
_GRAPH_INPUT = 11
_GRAPH_OUTPUT = 12
_NODE_INPUT = 1
_NODE_OUTPUT = 2
_NODE_NAME = 3
_NODE_OPERATOR = 4

TensorType = tuple[str, tuple[int, ...]]
"""NumPy's name of a type, and the shape."""

_ELEMENT = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
}
"""NumPy's name of a type → ONNX's number of it."""


@dataclass(frozen=True)
class Node:
    """A node of a graph, by its name, its operator, and the tensors it takes and makes."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def nodes(model: Path) -> list[Node]:
    """The nodes of a model's graph, in the order in which they can be run.

    Raises:
        BadArtifact: not an ONNX file.
    """
    found = []
    for graph in members(open_model(model), _MODEL_GRAPH, model):
        for node in members(graph, _GRAPH_NODE, model):
            name, operator, inputs, outputs = (
                tuple(text_of(value, model) for value in members(node, number, model))
                for number in (_NODE_NAME, _NODE_OPERATOR, _NODE_INPUT, _NODE_OUTPUT)
            )
            found.append(Node("".join(name), "".join(operator), inputs, outputs))
    return found


def boundary(graph: Sequence[Node], first: int, last: int) -> list[str]:
    """Tensors that nodes before ``first`` make and nodes from there to ``last`` take."""
    made = {name for node in graph[:first] for name in node.outputs if name}
    taken = [name for node in graph[first:last] for name in node.inputs]
    return [name for name in dict.fromkeys(taken) if name in made]


def part(
    model: Path,
    first: int,
    last: int,
    *,
    inputs: Mapping[str, TensorType] | None = None,
    outputs: Collection[str] | None = None,
) -> bytes:
    """A model of some nodes of another.

    Args:
        model: the other.
        first, last: the nodes from one to before the other.
        inputs: what is handed in beside the model's own inputs, with types.
        outputs: what it gives; None: all that the nodes make and none of them takes.

    Raises:
        BadArtifact: not an ONNX file.
        KeyError: an input is of a type that is not among those known here.
    """
    kept = nodes(model)[first:last]
    if outputs is None:
        taken = {name for node in kept for name in node.inputs}
        made = [name for node in kept for name in node.outputs]
        outputs = [name for name in made if name and name not in taken]
    ends = [field(_GRAPH_INPUT, _value(name, *kind)) for name, kind in (inputs or {}).items()]
    ends += [field(_GRAPH_OUTPUT, _value(name)) for name in outputs]
    return _cut(model, first, last, ends)


def until(model: Path, tensor: str, element: str) -> bytes:
    """A model of the nodes up to the one that makes a tensor, which is its only output.

    Args:
        model: that it is cut from.
        tensor: the output.
        element: NumPy's name of the tensor's type, which the file need not tell.

    Raises:
        BadArtifact: not an ONNX file, or none of its nodes makes such a tensor.
    """
    made = [index for index, node in enumerate(nodes(model)) if tensor in node.outputs]
    if not made:
        raise BadArtifact(f"none of its nodes makes a tensor {tensor!r}", where=model)
    return _cut(model, 0, made[0] + 1, [field(_GRAPH_OUTPUT, _value(tensor, element))])


def _cut(model: Path, first: int, last: int, ends: Sequence[bytes]) -> bytes:
    """A model of some nodes of another, without its outputs and with ``ends``, fields of its graph."""
    parts: list[bytes] = []
    for number, value in fields(open_model(model), model):
        if number != _MODEL_GRAPH or isinstance(value, int):
            parts.append(field(number, value))
            continue
        graph, index = [], -1
        for inner, content in fields(value, model):
            index += inner == _GRAPH_NODE
            if inner != _GRAPH_OUTPUT and (inner != _GRAPH_NODE or first <= index < last):
                graph.append(field(inner, content))
        parts.append(field(number, b"".join([*graph, *ends])))
    return b"".join(parts)


def _value(name: str, element: str | None = None, shape: Sequence[int] | None = None) -> bytes:
    """A ValueInfoProto, with as much of the type as is known."""
    if element is None:
        return field(1, name.encode())
    tensor = field(1, _ELEMENT[np.dtype(element).name])
    if shape is not None:
        tensor += field(2, b"".join(field(1, field(1, side)) for side in shape))
    return field(1, name.encode()) + field(2, field(1, tensor))
