"""What is read of an ONNX file without the onnx package: what flies has none."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from segclip_deploy.artifacts.onnx_wire import field, fields, members, open_model, text_of
from segclip_deploy.errors import BadArtifact

__all__ = [
    "block_of",
    "check_self_contained",
    "digest_without",
    "holds_fp16",
    "initializer_names",
    "makers",
    "quantizes_fp16",
]

# Field numbers of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3
_MODEL_GRAPH = 7
_GRAPH_NODE = 1
_GRAPH_INITIALIZER = 5
_NODE_INPUT = 1
_NODE_OUTPUT = 2
_NODE_NAME = 3
_NODE_OPERATOR = 4
_TENSOR_TYPE = 2
_TENSOR_NAME = 8
_TENSOR_ELSEWHERE = (13, 14)  # external_data, data_location

_FP32, _FP16 = 1, 10  # of TensorProto.DataType

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


def block_of(node_name: str) -> str:
    """The block of the model that a node ``<block>/<operator>`` belongs to; ``""`` if its name tells none."""
    return node_name.partition("/")[0] if "/" in node_name else ""


def initializer_names(model: Path) -> list[str]:
    """Names of the initializers of a model's graph, in the file's order.

    Raises:
        BadArtifact: not an ONNX file.
    """
    return [
        text_of(name, model)
        for graph in members(open_model(model), _MODEL_GRAPH, model)
        for tensor in members(graph, _GRAPH_INITIALIZER, model)
        for name in members(tensor, _TENSOR_NAME, model)
    ]


def digest_without(model: Path, names: Collection[str]) -> str:
    """SHA-256 of a model's graph without the values of some initializers.

    Raises:
        BadArtifact: not an ONNX file.
    """
    digest = hashlib.sha256()
    for graph in members(open_model(model), _MODEL_GRAPH, model):
        for number, value in fields(graph, model):
            if number == _GRAPH_INITIALIZER and isinstance(value, memoryview):
                (name,) = (text_of(n, model) for n in members(value, _TENSOR_NAME, model))
                if name in names:
                    digest.update(field(number, name.encode()))
                    continue
            digest.update(field(number, value))
    return digest.hexdigest()


def makers(model: Path) -> dict[str, str]:
    """Tensor → name of the node that makes it, in a model's graph.

    Raises:
        BadArtifact: not an ONNX file.
    """
    return {
        text_of(output, model): text_of(name, model)
        for graph in members(open_model(model), _MODEL_GRAPH, model)
        for node in members(graph, _GRAPH_NODE, model)
        for name in members(node, _NODE_NAME, model)
        for output in members(node, _NODE_OUTPUT, model)
    }


def quantizes_fp16(model: Path) -> bool:
    """Whether a QuantizeLinear of a model's graph may read FP16: its scale is no constant in FP32.

    Raises:
        BadArtifact: not an ONNX file.
    """
    scales, fp32 = set(), set()
    for graph in members(open_model(model), _MODEL_GRAPH, model):
        for node in members(graph, _GRAPH_NODE, model):
            if b"QuantizeLinear" in list(members(node, _NODE_OPERATOR, model)):
                scales |= {bytes(name) for name in list(members(node, _NODE_INPUT, model))[1:2]}
        for tensor in members(graph, _GRAPH_INITIALIZER, model):
            if (_TENSOR_TYPE, _FP32) in fields(tensor, model):
                fp32 |= {bytes(name) for name in members(tensor, _TENSOR_NAME, model)}
    return not scales <= fp32


def holds_fp16(model: Path) -> bool:
    """Whether an initializer of a model's graph is FP16.

    Raises:
        BadArtifact: not an ONNX file.
    """
    return any(
        (_TENSOR_TYPE, _FP16) in fields(tensor, model)
        for graph in members(open_model(model), _MODEL_GRAPH, model)
        for tensor in members(graph, _GRAPH_INITIALIZER, model)
    )


def check_self_contained(model: Path) -> None:
    """Accept a model all of whose tensors are in the file itself.

    What lies in other files no hash of ours covers, and their paths may lead anywhere.

    Raises:
        BadArtifact: a tensor, wherever in the graph, lies elsewhere; or not an ONNX file.
    """
    waiting = [("model", open_model(model))]
    while waiting:  # no recursion: graphs may nest as deep as a file is long
        kind, message = waiting.pop()
        for number, value in fields(message, model):
            if kind == "tensor" and number in _TENSOR_ELSEWHERE and value:
                names = [text_of(name, model) for name in members(message, _TENSOR_NAME, model)]
                raise BadArtifact(
                    f"tensor {' '.join(names)!r} lies in another file, which no hash covers",
                    where=model,
                    fix="write the model as one file: onnx.save(onnx.load(MODEL), MODEL)",
                )
            inside = _INSIDE.get(kind, {}).get(number)
            if inside and isinstance(value, memoryview):
                waiting.append((inside, value))
