"""From a DeployGraph to one self-contained ONNX file that every target reads."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from segclip_deploy._optional import require
from segclip_deploy.artifacts import InputSpec
from segclip_deploy.export.graph import DeployGraph
from segclip_deploy.export.naming import name_constants, name_nodes

__all__ = ["OPSET", "drop_output", "write_onnx"]

OPSET = 19
"""For every target: LayerNormalization is one operator, and TensorRT 10.3 reads it."""

_MAX_IR_VERSION = 10  # what TensorRT 10.3's parser reads


def write_onnx(
    graph: DeployGraph, spec: InputSpec, path: Path, *, text: Collection[str] = ()
) -> None:
    """Export, simplify, check.

    Args:
        graph: in evaluation mode.
        spec: static input size.
        path: the file to write.
        text: names of the constants that hold text, ``text.*``: nothing is computed from them
            beforehand, and they keep their names and shapes.
    """
    onnx = require("onnx", why="export")
    onnxslim = require("onnxslim", why="export")
    optimizer = require("onnxscript.optimizer", why="export")
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
            optimize=False,
        )
        assert program is not None
        traced = program.model_proto
        name_constants(traced, text)
        held = _take_text(traced, text)
        optimized = optimizer.optimize(traced)
    name_nodes(optimized)
    model = onnxslim.slim(optimized)
    _put_text(model, held)
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
    held = _take_text(
        model, [i.name for i in model.graph.initializer if i.name.startswith("text.")]
    )
    model = onnxslim.slim(model)
    _put_text(model, held)
    onnx.save(model, path)


def _take_text(model: Any, names: Collection[str]) -> list[Any]:
    """Make inputs of the constants that hold text, by name, so that no optimizer computes with them.

    Left in sight they are transposed, merged where two are equal, and multiplied into others.
    """
    onnx = require("onnx", why="export")
    held = [i for i in model.graph.initializer if i.name in names]
    for initializer in held:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(
                initializer.name, initializer.data_type, initializer.dims
            )
        )
        model.graph.initializer.remove(initializer)
    return held


def _put_text(model: Any, held: list[Any]) -> None:
    """Undo ``_take_text``."""
    names = {initializer.name for initializer in held}
    kept = [value for value in model.graph.input if value.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(held)
