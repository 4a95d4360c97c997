"""ONNX graphs that are looked into and edited: loading, exposing, measuring, writing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.errors import BadArtifact

if TYPE_CHECKING:
    import onnx_ir as ir

    from segclip_deploy.export.onnx_types import OnnxModel

__all__ = ["check_fp32", "expose", "load_fp32", "load_model", "observer", "save_model"]


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


def load_fp32(bundle: Bundle) -> OnnxModel:
    """The model of a bundle as it was exported, its logits among the outputs.

    Raises:
        BadArtifact: precision has been written into it already.
    """
    check_fp32(bundle)
    model = load_model(bundle.model_path)
    expose(model, "logits")
    return model


def load_model(path: Path) -> OnnxModel:
    """A model with the name of every node, and the type and shape of every tensor.

    Raises:
        BadArtifact: a node has no name, or the type or shape of a tensor cannot be inferred.
    """
    require("onnx", why="quantization")
    require("onnx_ir", why="quantization")
    import onnx
    import onnx_ir as ir

    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True))
    _check_complete(model.graph, path)
    return cast("OnnxModel", model)


def save_model(model: ir.Model, path: Path, *, outputs: Collection[str] | None = None) -> None:
    """Check a model fully and write it.

    Args:
        outputs: those to leave, with no node that none of them needs; None: all.
    """
    require("onnx", why="quantization")
    require("onnx_ir", why="quantization")
    import onnx
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    if outputs is not None:
        model.graph.outputs[:] = [value for value in model.graph.outputs if value.name in outputs]
        RemoveUnusedNodesPass()(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def expose(model: ir.Model, name: str) -> None:
    """Make a tensor an output of the graph, unless it is one."""
    if name not in {value.name for value in model.graph.outputs}:
        values = {value.name: value for node in model.graph for value in node.outputs}
        model.graph.outputs.append(values[name])


def observer(
    model: ir.Model, names: Sequence[str]
) -> Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]]:
    """What runs a batch (B, H, W, 3) of images in ONNX Runtime and gives those tensors.

    The model stays as it is.
    """
    ort = require("onnxruntime", why="calibration")
    require("onnx_ir", why="calibration")
    import onnx_ir as ir

    values = {value.name: value for node in model.graph for value in node.outputs}
    kept = list(model.graph.outputs)
    try:
        model.graph.outputs[:] = [values[name] for name in names]
        data = ir.to_proto(model).SerializeToString()
    finally:
        model.graph.outputs[:] = kept
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(list(names), {"image": pixels})


def _check_complete(graph: ir.Graph, path: Path) -> None:
    """Accept a graph in which every node has a name, and every tensor a type and a shape."""
    fix = "export the bundle anew: segclip-deploy export CKPT -o BUNDLE"
    for node in graph:
        if not node.name:
            raise BadArtifact(f"a node {node.op_type} has no name", where=path, fix=fix)
    made = (value for node in graph for value in node.outputs)
    for value in (*graph.inputs, *graph.initializers.values(), *made):
        left_out = value.name == ""  # an optional output that nothing reads
        if not left_out and (value.type is None or value.shape is None):
            what = f"the type or shape of tensor {value.name} cannot be inferred"
            raise BadArtifact(what, where=path, fix=fix)
