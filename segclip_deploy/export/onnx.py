"""From a DeployGraph to one self-contained ONNX file that every target reads."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from segclip_deploy._optional import require
from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.errors import BadInput
from segclip_deploy.export.blocks import name_constants, name_nodes, trace_blocks
from segclip_deploy.export.graph import DeployGraph
from segclip_deploy.model.failures import causes, user_line

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

__all__ = ["MAX_IR_VERSION", "OPSET", "drop_output", "write_onnx"]

OPSET = 19
"""For every target: LayerNormalization is one operator, and TensorRT 10.3 reads it."""

MAX_IR_VERSION = 10
"""Of files for every target: TensorRT 10.3's parser reads no newer one."""

_NO_FORM = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")


def write_onnx(
    graph: DeployGraph, spec: InputSpec, path: Path, *, text: Collection[str] = ()
) -> None:
    """Export, simplify, check.

    Args:
        graph: in evaluation mode.
        spec: input size; where it has several batches, the graph's is open, and called ``batch``.
        path: the file to write.
        text: names of the constants that hold text, ``text.*``: nothing is computed from them
            beforehand, and they keep their names and shapes.

    Raises:
        BadInput: several batches, and a network that fixes one; or one that has no graph.
    """
    for package in ("onnx", "onnxslim", "onnxscript"):
        require(package, why="export")
    import onnx
    import onnxslim
    from onnxscript import optimizer

    traced = _trace(graph, spec)
    name_constants(traced, text)
    held = _take_text(traced, text)
    with _quiet():
        optimized = optimizer.optimize(traced)
        blocks = trace_blocks(optimized)
        model = onnxslim.slim(optimized)
    name_nodes(model, blocks)
    _put_text(model, held)
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    (opset,) = (entry.version for entry in model.opset_import if entry.domain == "")
    if opset != OPSET:
        raise AssertionError(f"the exporter wrote opset {opset}, {OPSET} was asked for")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _trace(graph: DeployGraph, spec: InputSpec) -> ModelProto:
    """The graph as torch exports it, not yet simplified."""
    image = torch.zeros(spec.batch, spec.height, spec.width, 3, dtype=torch.uint8)
    is_open = len(spec.batches) > 1
    shapes = None
    if is_open:
        shapes = ({0: torch.export.Dim("batch", min=spec.batches.start, max=spec.batch)},)
    with _quiet():
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
                optimize=False,
                dynamic_shapes=shapes,
            )
        except torch.onnx.OnnxExporterError as error:
            if reason := _reason(error):
                raise reason from error
            if is_open:
                raise _fixed(spec) from error
            raise
    assert program is not None
    model = program.model_proto
    tensors = [*model.graph.input, *model.graph.output]
    if is_open and any(t.type.tensor_type.shape.dim[0].dim_param != "batch" for t in tensors):
        raise _fixed(spec)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes to its own developers from the screen: a failure prints whole graphs."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: Exception) -> BadInput | None:
    """Why a network has no graph, where it is one of the two reasons that networks have."""
    place, text = user_line(error) or (None, "a library's forward")
    told = "\n".join(str(cause) for cause in causes(error))
    if "data-dependent" in told or "data dependent" in told.lower():
        return BadInput(
            f"forward decides by what the image shows, in {text!r}, and a graph has one way for all",
            where=place,
            fix="compute every way and choose: torch.where(CONDITION, A, B)",
        )
    if found := _NO_FORM.search(told):
        return BadInput(
            f"ONNX has no form of the operator {found[1]}, used in {text!r}",
            where=place,
            fix="write it with other operators",
        )
    return None


def _fixed(spec: InputSpec) -> BadInput:
    return BadInput(
        "the network cannot be exported for several batches: its forward fixes one",
        where=f"--batch {spec.batches.start}..{spec.batch}",
        fix=f"use --batch {spec.batch}, or take sizes from tensors in forward",
    )


def drop_output(path: Path, name: str) -> None:
    """Remove an output from an ONNX file; what it is made of stays, for the other outputs."""
    require("onnx", why="export")
    import onnx

    model = onnx.load(path)
    kept = [output for output in model.graph.output if output.name != name]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, path)


def _take_text(model: ModelProto, names: Collection[str]) -> list[TensorProto]:
    """Make inputs of the constants that hold text, by name, so that no optimizer computes with them.

    Left in sight they are transposed, merged where two are equal, and multiplied into others.
    """
    require("onnx", why="export")
    import onnx

    held = [i for i in model.graph.initializer if i.name in names]
    for initializer in held:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(
                initializer.name, initializer.data_type, initializer.dims
            )
        )
        model.graph.initializer.remove(initializer)
    return held


def _put_text(model: ModelProto, held: list[TensorProto]) -> None:
    """Undo ``_take_text``."""
    names = {initializer.name for initializer in held}
    kept = [value for value in model.graph.input if value.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(held)
