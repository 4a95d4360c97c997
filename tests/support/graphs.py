"""Small ONNX graphs, written as text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from segclip_deploy.export.onnx_model import load_model


def small_model(path: Path, text: str, **constants: NDArray[Any]) -> Any:
    """A model as quantization loads it, from ``(inputs) => (outputs) { nodes }``.

    A node ``a = Op(b)`` is called ``net/a``.
    """
    declared = ", ".join(_declared(name, array) for name, array in constants.items())
    signature, body = re.split(r"(?=\{)", text, maxsplit=1)
    header = '<ir_version: 10, opset_import: ["": 19]> g '
    model = parser.parse_model(f"{header}{signature} <{declared}> {body}")
    del model.graph.initializer[:], model.graph.value_info[:]
    for name, array in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for node in model.graph.node:
        node.name = f"net/{node.output[0]}"
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return load_model(path)


def _declared(name: str, array: NDArray[Any]) -> str:
    kind = {"float32": "float", "int64": "int64"}[str(array.dtype)]
    return f"{kind}[{', '.join(map(str, array.shape))}] {name}"
