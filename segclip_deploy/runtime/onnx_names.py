"""The names in an ONNX file, read without the onnx package: what flies has none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = ["initializer_names", "makers"]

# Field numbers of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3
_MODEL_GRAPH = 7
_GRAPH_NODE = 1
_GRAPH_INITIALIZER = 5
_NODE_OUTPUT = 2
_NODE_NAME = 3
_TENSOR_NAME = 8


def initializer_names(model: Path) -> list[str]:
    """Names of the initializers of a model's graph, in the file's order."""
    data = memoryview(model.read_bytes())
    return [
        bytes(name).decode()
        for graph in _members(data, _MODEL_GRAPH)
        for tensor in _members(graph, _GRAPH_INITIALIZER)
        for name in _members(tensor, _TENSOR_NAME)
    ]


def makers(model: Path) -> dict[str, str]:
    """Tensor → name of the node that makes it, in a model's graph."""
    data = memoryview(model.read_bytes())
    return {
        bytes(output).decode(): bytes(name).decode()
        for graph in _members(data, _MODEL_GRAPH)
        for node in _members(graph, _GRAPH_NODE)
        for name in _members(node, _NODE_NAME)
        for output in _members(node, _NODE_OUTPUT)
    }


def _members(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The length-delimited fields of a number in a protobuf message.

    The wire format: https://protobuf.dev/programming-guides/encoding.
    """
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == 0:
            _, position = _varint(message, position)
        elif kind == 2:
            length, position = _varint(message, position)
            if key >> 3 == wanted:
                yield message[position : position + length]
            position += length
        else:
            position += {1: 8, 5: 4}[kind]


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number and the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
