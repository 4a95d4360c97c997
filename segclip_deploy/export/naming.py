"""Names a person can read: nodes and constants called after the blocks of the model."""

from __future__ import annotations

import ast
import re
from collections import Counter
from typing import Any

__all__ = ["name_after_blocks"]

_SCOPES = "pkg.torch.onnx.name_scopes"  # where torch.export says which module a node is from
_RULES = (
    (r"^network$", "head"),
    (r"^network\.", ""),
    (r"^decoder\.fusions\.(\d+)", r"cff.\1"),
    (r"^decoder\.(lateral|conv)s\.(\d+)", r"decoder.\2.\1"),
)


def name_after_blocks(model: Any) -> None:
    """Rename the nodes and initializers of an exported ONNX model, in place.

    A node becomes ``<block>/<operator>``, for example ``cff.16/Conv``, numbered where a block
    has several; what stands before and after the network is ``graph/…``, its last products ``head/…``. Constants into which
    text was folded become ``text.<block>.<name>``, other weights keep their module's name.
    """
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        properties = {entry.key: entry.value for entry in node.metadata_props}
        scopes = ast.literal_eval(properties.get(_SCOPES, "['', '']"))
        name = f"{_block(scopes[-2]) or 'graph'}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
    renamed = {i.name: _constant(i.name) for i in model.graph.initializer}
    if len(set(renamed.values())) < len(renamed):
        raise AssertionError("two constants would get the same name")
    for initializer in model.graph.initializer:
        initializer.name = renamed[initializer.name]
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _block(scope: str) -> str:
    for pattern, replacement in _RULES:
        scope = re.sub(pattern, replacement, scope)
    return scope


def _constant(name: str) -> str:
    block = _block(name)
    folded = re.match(r"^(cff\.\d+|refiner)\.[a-z_]+$", block) or block in ("text", "head_scale")
    return f"text.{block}" if folded else block
