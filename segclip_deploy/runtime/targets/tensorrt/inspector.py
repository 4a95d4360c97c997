"""What a network asks for and what its engine does, layer by layer, by block of the model."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from segclip_deploy.artifacts.precision_share import Layer, node_blocks

if TYPE_CHECKING:
    import tensorrt

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


def network_types(network: tensorrt.INetworkDefinition) -> dict[str, dict[str, int]]:
    """Layers of a parsed network by block and type: what the ONNX file asks for.

    Strongly typed, so the type is that of the first output; INT8 where all that is read has just
    been dequantized, which an engine fuses. Quantize, Dequantize and the casts beside them,
    layers the parser adds, constants, indices and shapes are not counted.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {
        layer.get_output(index).name: layer
        for layer in layers
        for index in range(layer.num_outputs)
    }
    found = []
    for layer in layers:
        if not layer.num_outputs:  # an assertion
            continue
        read = [tensor for i in range(layer.num_inputs) if (tensor := layer.get_input(i))]
        int8 = read and all(_dequantized(tensor, makers) for tensor in read)
        kind = "int8" if int8 else _type_of(layer.get_output(0).dtype.name)
        found.append((node_blocks(_nodes(layer.metadata)), kind))
    return _count(found)


def engine_layers(information: str) -> tuple[Layer, ...] | None:
    """Layers of an engine, from the inspector's JSON (TensorRT 10 and 11).

    Returns:
        None where the engine holds no such detail.
    """
    layers = json.loads(information).get("Layers", [])
    if not layers or not all(isinstance(layer, dict) for layer in layers):
        return None
    return tuple(_layer(layer) for layer in layers)


def by_block(layers: Iterable[Layer]) -> dict[str, dict[str, int]]:
    """Engine layers by block and type of what they read first: what they compute in."""
    return _count((layer.blocks, next(iter(layer.reads), None)) for layer in layers)


def _layer(told: Mapping[str, Any]) -> Layer:
    nodes = _nodes(told.get("Metadata") or "")
    return Layer(
        name=told.get("Name", ""),
        type=told.get("LayerType"),
        blocks=node_blocks(nodes),
        reads=tuple(_tensor_type(tensor) for tensor in told.get("Inputs", [])),
        writes=tuple(_tensor_type(tensor) for tensor in told.get("Outputs", [])),
        nodes=nodes,
    )


def _count(layers: Iterable[tuple[tuple[str, ...], str | None]]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for blocks, kind in layers:
        if blocks and kind in _COUNTED:
            counts.setdefault(blocks[0], Counter())[kind] += 1
    return {block: dict(kinds) for block, kinds in counts.items()}


def _dequantized(tensor: tensorrt.ITensor, makers: Mapping[str, tensorrt.ILayer]) -> bool:
    """Whether a tensor comes from a Dequantize layer, if need be reshaped."""
    layer = makers.get(tensor.name)
    while layer is not None and layer.type.name == "SHUFFLE":
        layer = makers.get(layer.get_input(0).name)
    return layer is not None and layer.type.name == "DEQUANTIZE"


def _nodes(metadata: str) -> tuple[str, ...]:
    """The ONNX nodes that a layer was made of; what lies between their names differs by version."""
    return tuple(match[1] for match in _NODE.finditer(metadata))


def _tensor_type(tensor: Mapping[str, Any]) -> str | None:
    # 10 writes one phrase, "Row major linear FP16 format"; 11 the type alone.
    spelled = (tensor.get(key) for key in ("Datatype", "DataType", "Format/Datatype", "Format"))
    return _type_of(next(filter(None, spelled), ""))


def _type_of(spelled: str) -> str | None:
    return next((kind for kind, p in _TYPES if re.search(p, spelled, re.IGNORECASE)), None)
