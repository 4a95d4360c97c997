"""What a network asks for and what its engine does, layer by layer, by block of the model."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["by_block", "engine_layers", "network_types"]

# How the library's enum and the inspectors of 8.6 to 11 spell an element type. BF16 before FP16,
# UINT8 before INT8: the first that is found counts.
_TYPES = (
    ("bf16", r"bf16|bfloat16"),
    ("fp8", r"fp8"),
    ("fp16", r"fp16|half|float16"),
    ("uint8", r"uint8"),
    ("int8", r"int8"),
    ("int32", r"int32"),
    ("int64", r"int64"),
    ("bool", r"bool"),
    ("fp32", r"fp32|float32|float"),
)
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_COUNTED = {"bf16", "fp8", "fp16", "int8", "fp32"}  # what arithmetic is done in


def network_types(network: Any) -> dict[str, dict[str, int]]:
    """Layers of a parsed network by block and type of their first output.

    Strongly typed, so this is what the ONNX file asks for; INT8 outputs are its Quantize layers.
    Layers the parser adds, constants, indices and shapes are not counted.
    """
    found = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if not layer.num_outputs:  # an assertion
            continue
        found.append((_blocks(layer.metadata), _type_of(layer.get_output(0).dtype.name)))
    return _count(found)


def engine_layers(information: str) -> list[dict[str, Any]] | None:
    """Layers of an engine, from the inspector's JSON (TensorRT 10 and 11).

    Returns:
        per layer its name, type, blocks and the element types of what it reads and writes; None
        where the engine holds no such detail. A type that the inspector does not tell is None.
    """
    layers = json.loads(information).get("Layers", [])
    if not layers or not all(isinstance(layer, dict) for layer in layers):
        return None
    return [
        {
            "name": layer.get("Name", ""),
            "type": layer.get("LayerType"),
            "blocks": _blocks(layer.get("Metadata") or ""),
            "reads": [_tensor_type(tensor) for tensor in layer.get("Inputs", [])],
            "writes": [_tensor_type(tensor) for tensor in layer.get("Outputs", [])],
        }
        for layer in layers
    ]


def by_block(layers: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Engine layers by block and type of what they read first: what they compute in."""
    return _count((layer["blocks"], next(iter(layer["reads"]), None)) for layer in layers)


def _count(layers: Iterable[tuple[list[str], str | None]]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for blocks, kind in layers:
        if blocks and kind in _COUNTED:
            counts.setdefault(blocks[0], Counter())[kind] += 1
    return {block: dict(kinds) for block, kinds in counts.items()}


def _blocks(text: str) -> list[str]:
    """Blocks of the ONNX nodes ``block/Operator`` that a layer was made of, each once."""
    nodes: Iterator[str] = (match[1] for match in _NODE.finditer(text))
    return list(dict.fromkeys(node.partition("/")[0] for node in nodes if "/" in node))


def _tensor_type(tensor: Mapping[str, Any]) -> str | None:
    # 10 writes one phrase, "Row major linear FP16 format"; 11 the type alone.
    spelled = (tensor.get(key) for key in ("Datatype", "DataType", "Format/Datatype", "Format"))
    return _type_of(next(filter(None, spelled), ""))


def _type_of(spelled: str) -> str | None:
    return next((kind for kind, p in _TYPES if re.search(p, spelled, re.IGNORECASE)), None)
