"""Names a person can read: nodes and constants called after the blocks of the model."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection
from typing import Any

__all__ = ["name_constants", "name_nodes"]

_SCOPES = "pkg.torch.onnx.name_scopes"  # where torch.export says which module a node is from
_RULES = (
    (r"^network$", "head"),
    (r"^network\.", ""),
    (r"^decoder\.fusions\.(\d+)(\.level)?", r"cff.\1"),
    (r"^decoder\.(lateral|conv)s\.(\d+)", r"decoder.\2.\1"),
)


def name_nodes(model: Any) -> None:
    """Rename the nodes of an exported ONNX model, in place.

    A node becomes ``<block>/<operator>``, for example ``cff.16/Conv``, numbered where a block
    has several; what stands before and after the network is ``graph/…``, its last products ``head/…``.
    """
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        properties = {entry.key: entry.value for entry in node.metadata_props}
        scopes = ast.literal_eval(properties.get(_SCOPES, "['', '']"))
        name = f"{_block(scopes[-2]) or 'graph'}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def name_constants(model: Any, text: Collection[str]) -> None:
    """Rename the initializers of an exported ONNX model after their modules, in place.

    Args:
        text: names ``text.<block>.<name>`` of constants into which text was folded.

    Raises:
        AssertionError: one of them is not in the model, or two constants would share a name.
    """
    blocks = {i.name: _block(i.name) for i in model.graph.initializer}
    renamed = {n: f"text.{b}" if f"text.{b}" in text else b for n, b in blocks.items()}
    names = set(renamed.values())
    if len(names) < len(renamed) or not names.issuperset(text):
        raise AssertionError("constants share a name, or one of the text's is not there")
    for initializer in model.graph.initializer:
        initializer.name = renamed[initializer.name]
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _block(scope: str) -> str:
    for pattern, replacement in _RULES:
        scope = re.sub(pattern, replacement, scope)
    return scope
