"""Reading and writing the ONNX graphs that precision is written into."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.errors import BadArtifact

__all__ = [
    "add_constant",
    "check_fp32",
    "expose",
    "keep_outputs",
    "load_model",
    "observer",
    "save_model",
]


def load_model(path: Path) -> Any:
    """An ``onnx_ir.Model`` with the type and shape of every tensor."""
    onnx = require("onnx", why="quantization")
    ir = require("onnx_ir", why="quantization")
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True))


def save_model(model: Any, path: Path) -> None:
    """Check a model fully and write it."""
    onnx = require("onnx", why="quantization")
    ir = require("onnx_ir", why="quantization")
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def add_constant(graph: Any, name: str, array: NDArray[Any]) -> Any:
    """Give a graph a constant; returns its value."""
    ir = require("onnx_ir", why="quantization")
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def expose(model: Any, name: str) -> None:
    """Make a tensor an output of the graph, unless it is one."""
    if name not in {value.name for value in model.graph.outputs}:
        values = {value.name: value for node in model.graph for value in node.outputs}
        model.graph.outputs.append(values[name])


def keep_outputs(model: Any, names: Collection[str]) -> None:
    """Leave these outputs, and no node that none of them needs."""
    passes = require("onnx_ir.passes.common", why="quantization")
    model.graph.outputs[:] = [value for value in model.graph.outputs if value.name in names]
    passes.RemoveUnusedNodesPass()(model)


def observer(
    model: Any, names: Sequence[str]
) -> Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]]:
    """What runs a batch (B, H, W, 3) of images in ONNX Runtime and gives those tensors."""
    ort = require("onnxruntime", why="calibration")
    ir = require("onnx_ir", why="calibration")
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs[:] = [values[name] for name in names]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda pixels: session.run(list(names), {"image": pixels})


def check_fp32(bundle: Bundle) -> None:
    """Accept a bundle as it was exported.

    Raises:
        BadArtifact: precision has been written into it already.
    """
    if bundle.precision != "fp32":
        raise BadArtifact(
            f"this bundle is {bundle.precision} already",
            where=bundle.path,
            fix="give the FP32 bundle that it was made from",
        )
