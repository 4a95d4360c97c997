"""Can the ONNX Runtime that is installed do the reference run of a model? Not of each that holds FP16.

Before 1.30 its QuantizeLinear truncated FP16 values, where ONNX asks for the nearest level. 1.19.2 to
1.29.0 give other labels on 5 to 8 % of the pixels of the example in INT8 for TensorRT; 1.30.0, 1.31.1
and 1.32.0 give equal ones. On aarch64 its products of FP16 are summed in FP16, which no GPU does: 0.3 %
of the labels of the example in FP16. So nothing is believed: both are tried.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import python_command, require
from segclip_deploy.artifacts.onnx_file import holds_fp16, quantizes_fp16
from segclip_deploy.artifacts.onnx_wire import field
from segclip_deploy.errors import BadArtifact, MissingDependency, command

__all__ = ["check_reference"]

_FIRST = "1.30"
"""The first version that rounds; there is none of it for Python 3.10."""

_FP16, _INT8 = 10, 3  # of TensorProto.DataType

_LEVELS = {0.25: 0, 0.5: 0, 0.75: 1, 1.5: 2, 2.5: 2, 2.75: 3, -0.75: -1, -1.5: -2, 1000: 127}
"""Value → level at scale 1: the nearest, the even one of two that are as near, within INT8."""


def check_reference(model: Path) -> None:
    """Accept a model whose every node is executed here as its engine is to execute it.

    Raises:
        BadArtifact: it multiplies FP16, and this processor's sums are FP16, too.
        MissingDependency: it quantizes FP16, and this ONNX Runtime does that wrongly.
    """
    if holds_fp16(model) and not _sums_in_fp32():
        raise BadArtifact(
            "ONNX Runtime sums products of FP16 in FP16 on this processor, so labels would be wrong",
            where=model,
            fix="quantize and verify the bundle on x86-64; here, build an engine and verify that",
        )
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
    levels = _tried(_quantizer(), np.array(list(_LEVELS), np.float16))
    return bool(np.array_equal(levels, list(_LEVELS.values())))


@cache
def _sums_in_fp32() -> bool:
    """Whether a long product of FP16 is right but for its last rounding; tried once in a process.

    Summed in FP16 it is off by 1 % (ONNX Runtime 1.32 on aarch64).
    """
    given, weights = _factors()
    right = given.astype(np.float64) @ weights.astype(np.float64)
    return bool(np.allclose(_tried(_product(), given), right, rtol=2**-10))


def _tried(model: bytes, x: NDArray[np.float16]) -> NDArray[Any]:
    """Y of a model of one node, with all optimizations off."""
    ort = require("onnxruntime", why="running an ONNX model")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def _quantizer() -> bytes:
    """Y = QuantizeLinear(x, 1, 0), from FP16 to INT8."""
    scale, zero = (_tensor(b"scale", np.float16(1)), _tensor(b"zero", np.int8(0)))
    shape = (len(_LEVELS),)
    return _model(b"QuantizeLinear", {b"scale": scale, b"zero": zero}, shape, shape, _INT8)


def _product() -> bytes:
    """Y = x · W."""
    given, weights = _factors()
    shape = (given.shape[0], weights.shape[1])
    return _model(b"MatMul", {b"w": _tensor(b"w", weights)}, given.shape, shape, _FP16)


def _factors() -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """A row (1, 4096) and a matrix (4096, 8), of which no sum is near 0."""
    rng = np.random.default_rng(0)
    row, matrix = (rng.normal(0.5, 1, shape).astype(np.float16) for shape in ((1, 4096), (4096, 8)))
    return row, matrix


def _model(
    operator: bytes,
    constants: Mapping[bytes, bytes],
    given: tuple[int, ...],
    made: tuple[int, ...],
    kind: int,
) -> bytes:
    """An ONNX model of one node: FP16 ``x`` and constants in, ``y`` out.

    Numbers of fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3.
    """
    node = b"".join(field(1, name) for name in (b"x", *constants))
    node += field(2, b"y") + field(4, operator)
    graph = field(1, node) + field(2, b"g") + b"".join(field(5, one) for one in constants.values())
    graph += field(11, _value(b"x", _FP16, given)) + field(12, _value(b"y", kind, made))
    return field(1, 9) + field(7, graph) + field(8, field(2, 19))  # IR version, graph, opset


def _tensor(name: bytes, array: NDArray[Any] | np.generic) -> bytes:
    """TensorProto."""
    kind = _FP16 if array.dtype == np.float16 else _INT8
    sides = b"".join(field(1, side) for side in array.shape)
    return sides + field(2, kind) + field(8, name) + field(9, array.tobytes())


def _value(name: bytes, kind: int, shape: tuple[int, ...]) -> bytes:
    """ValueInfoProto."""
    sides = b"".join(field(1, field(1, side)) for side in shape)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, sides)))
