"""Names a person can read: nodes and constants called after the blocks of the model.

The blocks are what precision plans, profiles and ``inspect`` speak of:

    encoder.stem, encoder.stage1 …     the backbone's own stages; of a ViT, three layers each
    encoder.pyramid                    a ViT's maps at four strides
    decoder.16                         a level of the pixel decoder: lateral, sum, convolution
    cff.16.read                        what both directions of a CFF level work on
    cff.16.language_to_vision, cff.16.vision_to_language, cff.16.score_map
    refiner, head
    graph                              normalisation before the network, upsampling after it
"""

from __future__ import annotations

import ast
import heapq
import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from segclip_deploy.artifacts.onnx_file import block_of

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["block_of_module", "blocks_of", "name_constants", "name_nodes", "trace_blocks"]

_SCOPES = "pkg.torch.onnx.name_scopes"  # where torch.export says which module a node is from
_NOWHERE = "_empty_nn_module_stack_from_metadata_hook"
_MODULES = (
    (r"^network$", "head"),
    (r"^network\.", ""),
    (r"^decoder\.fusions\.(\d+)(\.level)?", r"cff.\1"),
    (r"^decoder\.(lateral|conv)s\.(\d+)", r"decoder.\2.\1"),
)

# Where the number of a stage stands in timm and open_clip, what it counts from, and by how many.
_STAGES = (
    (r"(?:layer|stage|s)(\d+)\b", 1, 1),  # ResNet, HRNet, RegNet
    (r"(?:blocks|stages|layers)[._](\d+)\b", 0, 1),  # EfficientNet, ConvNeXt, Swin, CLIP's ResNet
    (r"blocks\.resblocks\.(\d+)\b", 0, 3),  # CLIP's ViT
)
_STEM = r"(?:conv_?stem|stem|conv\d|bn\d|act\d|maxpool|patch|norm_in)"
_PYRAMID = r"(?:norm_out|to_stride)"

_READ, _SCORE = "read", "score_map"
_GUIDE, _ANSWER = "language_to_vision", "vision_to_language"
# The constants that only one direction of a folded CFF level works with.
_DIRECTIONS = {"mix": _GUIDE, "answer": _ANSWER, "answer_bias": _ANSWER}


def block_of_module(path: str) -> str:
    """The block that what a module of a SegCLIP computes belongs to."""
    return _block(_module(path))


def blocks_of(model: ModelProto) -> dict[str, list[NodeProto]]:
    """The nodes of an ONNX model by block, in the graph's order."""
    blocks: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        blocks.setdefault(block_of(node.name), []).append(node)
    return blocks


def name_constants(model: ModelProto, text: Collection[str]) -> None:
    """Rename the initializers of an exported ONNX model after their modules, in place.

    Args:
        text: names ``text.<block>.<name>`` of constants into which text was folded.

    Raises:
        AssertionError: one of them is not in the model, or two constants would share a name.
    """
    paths = {i.name: _module(i.name) for i in model.graph.initializer}
    renamed = {n: f"text.{p}" if f"text.{p}" in text else p for n, p in paths.items()}
    names = set(renamed.values())
    if len(names) < len(renamed) or not names.issuperset(text):
        raise AssertionError("constants share a name, or one of the text's is not there")
    for initializer in model.graph.initializer:
        initializer.name = renamed[initializer.name]
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def trace_blocks(model: ModelProto) -> dict[str, str]:
    """The block that each tensor of a model is made in, in program order.

    Args:
        model: as torch exported it, its constants named.
    """
    nodes = model.graph.node
    modules = _modules(nodes)
    directions = _directions(nodes, modules)
    blocks: dict[str, str] = {}
    last = {"encoder": "encoder.stem"}
    for node, module, direction in zip(nodes, modules, directions, strict=True):
        block = direction or _block(module)
        part = block.partition(".")[0]
        # What a container does itself, between its children, goes with the child before.
        block = last.get(part, block) if block == part else block
        if part in ("encoder", "decoder"):
            last[part] = block
        blocks.update(dict.fromkeys(node.output, block))
    return blocks


def name_nodes(model: ModelProto, blocks: dict[str, str]) -> None:
    """Name and order the nodes of a model that has been simplified, in place.

    A node becomes ``<block>/<operator>``, for example ``decoder.16/Conv``, numbered where a block
    has several.

    Args:
        blocks: from ``trace_blocks``, before the simplification.
    """
    places = {tensor: (place, block) for place, (tensor, block) in enumerate(blocks.items())}
    # A tensor that simplifying has made belongs where it is read.
    for node in reversed(model.graph.node):
        if node.output[0] not in places:
            readers = [places[r.output[0]] for r in model.graph.node if node.output[0] in r.input]
            places[node.output[0]] = min(readers)
    _sort(model.graph, {tensor: place for tensor, (place, _) in places.items()})
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        name = f"{places[node.output[0]][1]}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def _sort(graph: GraphProto, places: dict[str, int]) -> None:
    """Order nodes by place, each after what it reads."""
    nodes = list(graph.node)
    makers = {tensor: i for i, node in enumerate(nodes) for tensor in node.output}
    waits = [{makers[name] for name in node.input if name in makers} for node in nodes]
    ready = [(places[node.output[0]], i) for i, node in enumerate(nodes) if not waits[i]]
    heapq.heapify(ready)
    ordered = []
    while ready:
        _, done = heapq.heappop(ready)
        ordered.append(nodes[done])
        for i, node in enumerate(nodes):
            if done in waits[i]:
                waits[i].remove(done)
                if not waits[i]:
                    heapq.heappush(ready, (places[node.output[0]], i))
    del graph.node[:]
    graph.node.extend(ordered)


def _module(scope: str) -> str:
    for pattern, replacement in _MODULES:
        scope = re.sub(pattern, replacement, scope)
    return scope


def _modules(nodes: Sequence[NodeProto]) -> list[str]:
    """The module that each node was traced in."""
    modules: list[str] = []
    made_in: dict[str, str] = {}
    for node in nodes:
        properties = {entry.key: entry.value for entry in node.metadata_props}
        scope = ast.literal_eval(properties.get(_SCOPES, f"['{_NOWHERE}', '']"))[-2]
        if scope != _NOWHERE:
            module = _module(re.sub(r"^network\.network\b", "network", scope))  # ConstantText's
        else:  # made by the exporter in passing
            module = next((made_in[name] for name in node.input if name in made_in), "")
        made_in.update(dict.fromkeys(node.output, module))
        modules.append(module)
    return modules


def _block(module: str) -> str:
    part, _, path = module.partition(".")
    if part == "encoder":
        path = "" if path == "body" else path.removeprefix("body.")
        for pattern, first, group in _STAGES:
            if match := re.match(pattern, path):
                return f"encoder.stage{(int(match[1]) - first) // group + 1}"
        for pattern, name in ((_STEM, "stem"), (_PYRAMID, "pyramid")):
            if re.match(pattern, path):
                return f"encoder.{name}"
        module = f"encoder.{path}".rstrip(".")
    if part == "refiner":
        return part
    # Of any other module its first child: decoder.16, or what a network of the user's own has.
    return ".".join(module.split(".")[:2]) or "graph"


def _directions(nodes: Sequence[NodeProto], modules: list[str]) -> list[str]:
    """The block of each node of a CFF level; ``""`` elsewhere.

    A folded level is one module, so its directions are told apart by what flows where: a node
    belongs to the direction it leads to, and to what is read where it leads to both. What leads
    to neither comes after: the residual sum after the first, the score map after the second.
    """
    levels = [match[0] if (match := re.match(r"^cff\.\d+", m)) else "" for m in modules]
    leads: dict[tuple[str, str], set[str]] = {}
    found = []
    for node, module, level in reversed(list(zip(nodes, modules, levels, strict=True))):
        here = {d for d in (_GUIDE, _ANSWER) if module.startswith(f"{level}.{d}")}
        constants = [n.removeprefix("text.").removeprefix(f"{level}.") for n in node.input]
        here |= {_DIRECTIONS[name] for name in constants if name in _DIRECTIONS}
        for name in node.output:
            here |= leads.get((level, name), set())
        for name in node.input:
            leads.setdefault((level, name), set()).update(here)
        found.append(here)
    blocks, answered = [], set()
    for level, here in zip(levels, reversed(found), strict=True):
        if here == {_ANSWER}:
            answered.add(level)
        inner = _READ if len(here) == 2 else next(iter(here), None)
        after = _SCORE if level in answered else _GUIDE
        blocks.append(level and f"{level}.{inner or after}")
    return blocks
