"""From a DeployGraph to one self-contained ONNX file that every target reads."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch

from segclip_deploy._optional import require
from segclip_deploy.artifacts import InputSpec
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
        spec: static input size.
        path: the file to write.
    """
    onnx = require("onnx", why="export")
    onnxslim = require("onnxslim", why="export")
    require("onnxscript", why="export")
    image = torch.zeros(spec.batch, spec.height, spec.width, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes to its own developers
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            graph,
            (image,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=graph.output_names,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    traced = program.model_proto
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


def drop_output(path: Path, name: str) -> None:
    """Remove an output from an ONNX file; what only it needed goes with it."""
    onnx = require("onnx", why="export")
    onnxslim = require("onnxslim", why="export")
    model = onnx.load(path)
    kept = [output for output in model.graph.output if output.name != name]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(onnxslim.slim(model), path)
