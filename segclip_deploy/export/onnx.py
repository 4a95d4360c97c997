"""From a DeployGraph to one self-contained ONNX file that every target reads."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from segclip_deploy._optional import require
from segclip_deploy.artifacts import InputSpec
from segclip_deploy.errors import BadInput
from segclip_deploy.export.graph import DeployGraph
from segclip_deploy.export.naming import name_constants, name_nodes, trace_blocks

__all__ = ["OPSET", "drop_output", "write_onnx"]

OPSET = 19
"""For every target: LayerNormalization is one operator, and TensorRT 10.3 reads it."""

_MAX_IR_VERSION = 10  # what TensorRT 10.3's parser reads


def write_onnx(graph: DeployGraph, spec: InputSpec, path: Path) -> None:
    """Export, simplify, check.

    Args:
        graph: in evaluation mode.
        spec: input size; where it has several batches, the graph's is open, and called ``batch``.
        path: the file to write.

    Raises:
        BadInput: several batches, and a network that fixes one.
    """
    onnx = require("onnx", why="export")
    onnxslim = require("onnxslim", why="export")
    require("onnxscript", why="export")
    traced = _trace(graph, spec)
    name_constants(traced)
    blocks = trace_blocks(traced)
    model = onnxslim.slim(traced)
    name_nodes(model, blocks)
    model.ir_version = min(model.ir_version, _MAX_IR_VERSION)
    (opset,) = (entry.version for entry in model.opset_import if entry.domain == "")
    if opset != OPSET:
        raise AssertionError(f"the exporter wrote opset {opset}, {OPSET} was asked for")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _trace(graph: DeployGraph, spec: InputSpec) -> Any:
    """The graph as torch exports it."""
    image = torch.zeros(spec.batch, spec.height, spec.width, 3, dtype=torch.uint8)
    is_open = len(spec.batches) > 1
    shapes = None
    if is_open:
        shapes = ({0: torch.export.Dim("batch", min=spec.batches.start, max=spec.batch)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes to its own developers
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                graph,
                (image,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=graph.output_names,
                external_data=False,
                verbose=False,
                dynamic_shapes=shapes,
            )
        except torch.onnx.OnnxExporterError as error:
            if is_open:
                raise _fixed(spec) from error
            raise
    assert program is not None
    model = program.model_proto
    tensors = [*model.graph.input, *model.graph.output]
    if is_open and any(t.type.tensor_type.shape.dim[0].dim_param != "batch" for t in tensors):
        raise _fixed(spec)
    return model


def _fixed(spec: InputSpec) -> BadInput:
    return BadInput(
        "the network cannot be exported for several batches: its forward fixes one",
        where=f"--batch {spec.batches.start}..{spec.batch}",
        fix=f"use --batch {spec.batch}, or take sizes from tensors in forward",
    )


def drop_output(path: Path, name: str) -> None:
    """Remove an output from an ONNX file; what only it needed goes with it."""
    onnx = require("onnx", why="export")
    onnxslim = require("onnxslim", why="export")
    model = onnx.load(path)
    kept = [output for output in model.graph.output if output.name != name]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(onnxslim.slim(model), path)
