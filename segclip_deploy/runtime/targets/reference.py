"""Can the ONNX Runtime that is installed be the reference of a model? Before 1.30 not of FP16 in INT8.

Its CPU kernel of QuantizeLinear truncated FP16 values, where ONNX asks for the nearest level. 1.19.2 to
1.29.0 give other labels on 5 to 8 % of the pixels of the example in INT8 for TensorRT; 1.30.0, 1.31.1
and 1.32.0 give equal ones. So no version is believed: the kernel is tried.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np

from segclip_deploy._optional import python_command, require
from segclip_deploy.artifacts.onnx_file import quantizes_fp16
from segclip_deploy.artifacts.onnx_wire import field
from segclip_deploy.errors import MissingDependency, command

__all__ = ["check_reference"]

_FIRST = "1.30"
"""The first version that rounds; there is none of it for Python 3.10."""

_FP16, _INT8 = 10, 3  # of TensorProto.DataType

_LEVELS = {0.25: 0, 0.5: 0, 0.75: 1, 1.5: 2, 2.5: 2, 2.75: 3, -0.75: -1, -1.5: -2, 1000: 127}
"""Value → level at scale 1: the nearest, the even one of two that are as near, within INT8."""


def check_reference(model: Path) -> None:
    """Accept a model whose every node is executed here as ONNX defines it.

    Raises:
        MissingDependency: it quantizes FP16, and this ONNX Runtime does that wrongly.
    """
    if not quantizes_fp16(model) or _rounds_fp16():
        return
    installed = require("onnxruntime", why="running an ONNX model").__version__
    found = packages_distributions().get("onnxruntime", [])
    raise _refusal(installed, sys.version_info[:2], found)


def _refusal(
    installed: str, python: tuple[int, ...], distributions: list[str]
) -> MissingDependency:
    """What is wrong with a version, and the command that brings one that rounds.

    Args:
        installed: the version of ONNX Runtime.
        python: this Python's version.
        distributions: of pip, that ONNX Runtime came with.
    """
    what = f"ONNX Runtime {installed} truncates where FP16 is quantized, so labels would be wrong"
    if python < (3, 11):
        what += f"; {_FIRST} rounds, and needs another Python"
        return MissingDependency(what, fix=python_command("3.11"))
    package = "onnxruntime-gpu" if "onnxruntime-gpu" in distributions else "onnxruntime"
    upgrade = command("pip", "install", "-U", f"{package}>={_FIRST}")
    return MissingDependency(f"{what}; {_FIRST} rounds", fix=upgrade)


@cache
def _rounds_fp16() -> bool:
    """Whether QuantizeLinear gives the nearest levels of FP16 values; tried once in a process."""
    ort = require("onnxruntime", why="running an ONNX model")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(_quantizer(), options, providers=["CPUExecutionProvider"])
    (levels,) = session.run(None, {"x": np.array(list(_LEVELS), np.float16)})
    return bool(np.array_equal(levels, list(_LEVELS.values())))


def _quantizer() -> bytes:
    """An ONNX model of one node, y = QuantizeLinear(x, 1, 0), from FP16 to INT8.

    Numbers of fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3.
    """
    node = b"".join(field(1, name) for name in (b"x", b"scale", b"zero"))
    node += field(2, b"y") + field(4, b"QuantizeLinear")
    scale = field(2, _FP16) + field(8, b"scale") + field(9, np.float16(1).tobytes())
    zero = field(2, _INT8) + field(8, b"zero") + field(9, np.int8(0).tobytes())
    graph = field(1, node) + field(2, b"g") + field(5, scale) + field(5, zero)
    graph += field(11, _value(b"x", _FP16)) + field(12, _value(b"y", _INT8))
    return field(1, 9) + field(7, graph) + field(8, field(2, 19))  # IR version, graph, opset


def _value(name: bytes, kind: int) -> bytes:
    """ValueInfoProto of a vector."""
    shape = field(1, field(1, len(_LEVELS)))
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape)))
