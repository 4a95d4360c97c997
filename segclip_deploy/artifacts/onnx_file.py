"""What is read of an ONNX file without the onnx package: what flies has none."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from segclip_deploy.errors import BadArtifact

__all__ = ["block_of", "check_self_contained", "initializer_names", "makers"]

# Field numbers of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3
_MODEL_GRAPH = 7
_GRAPH_NODE = 1
_GRAPH_INITIALIZER = 5
_NODE_OUTPUT = 2
_NODE_NAME = 3
_TENSOR_NAME = 8
_TENSOR_ELSEWHERE = (13, 14)  # external_data, data_location

_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        10: "tensor",
        6: "graph",
        11: "graph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
"""Message → those of its fields in which a tensor may lie, and what they are."""

_LONGEST_VARINT = 10  # bytes


def block_of(node_name: str) -> str:
    """The block of the model that a node ``<block>/<operator>`` belongs to; ``""`` if its name tells none."""
    return node_name.partition("/")[0] if "/" in node_name else ""


def initializer_names(model: Path) -> list[str]:
    """Names of the initializers of a model's graph, in the file's order.

    Raises:
        BadArtifact: not an ONNX file.
    """
    return [
        _text(name, model)
        for graph in _members(_open(model), _MODEL_GRAPH, model)
        for tensor in _members(graph, _GRAPH_INITIALIZER, model)
        for name in _members(tensor, _TENSOR_NAME, model)
    ]


def makers(model: Path) -> dict[str, str]:
    """Tensor → name of the node that makes it, in a model's graph.

    Raises:
        BadArtifact: not an ONNX file.
    """
    return {
        _text(output, model): _text(name, model)
        for graph in _members(_open(model), _MODEL_GRAPH, model)
        for node in _members(graph, _GRAPH_NODE, model)
        for name in _members(node, _NODE_NAME, model)
        for output in _members(node, _NODE_OUTPUT, model)
    }


def check_self_contained(model: Path) -> None:
    """Accept a model all of whose tensors are in the file itself.

    What lies in other files no hash of ours covers, and their paths may lead anywhere.

    Raises:
        BadArtifact: a tensor, wherever in the graph, lies elsewhere; or not an ONNX file.
    """
    waiting = [("model", _open(model))]
    while waiting:  # no recursion: graphs may nest as deep as a file is long
        kind, message = waiting.pop()
        for number, value in _fields(message, model):
            if kind == "tensor" and number in _TENSOR_ELSEWHERE and value:
                names = [_text(name, model) for name in _members(message, _TENSOR_NAME, model)]
                raise BadArtifact(
                    f"tensor {' '.join(names)!r} lies in another file, which no hash covers",
                    where=model,
                    fix="write the model as one file: onnx.save(onnx.load(MODEL), MODEL)",
                )
            inside = _INSIDE.get(kind, {}).get(number)
            if inside and isinstance(value, memoryview):
                waiting.append((inside, value))


def _open(model: Path) -> memoryview:
    with model.open("rb") as file:
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError as error:
            raise BadArtifact("the file is empty (0 bytes)", where=model) from error


def _text(name: memoryview, model: Path) -> str:
    try:
        return bytes(name).decode()
    except UnicodeDecodeError as error:
        raise BadArtifact(f"not an ONNX file ({error})", where=model) from error


def _members(message: memoryview, wanted: int, model: Path) -> Iterator[memoryview]:
    """The length-delimited fields of a number."""
    for number, value in _fields(message, model):
        if number == wanted and isinstance(value, memoryview):
            yield value


def _fields(message: memoryview, model: Path) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of a protobuf message's fields; those of fixed width are passed over.

    The wire format: https://protobuf.dev/programming-guides/encoding.
    """
    position = 0
    try:
        while position < len(message):
            key, position = _varint(message, position)
            kind = key & 7
            if kind == 0:
                value, position = _varint(message, position)
                yield key >> 3, value
            elif kind == 2:
                length, position = _varint(message, position)
                if length > len(message) - position:
                    raise IndexError("cut short")
                yield key >> 3, message[position : position + length]
                position += length
            else:
                position += {1: 8, 5: 4}[kind]
        if position > len(message):
            raise IndexError("cut short")
    except (IndexError, KeyError) as error:
        raise BadArtifact(f"not an ONNX file ({error!r})", where=model) from error


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number and the position after it."""
    value = 0
    for place in range(_LONGEST_VARINT):
        byte = message[position + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, position + place + 1
    raise IndexError("a number without end")
