"""Q/DQ placed by nvidia-modelopt, with ranges that it measures itself, for the scheme tensorrt.

modelopt replaces parts of ONNX Runtime and logs at length, so it has a process of its own. Of its
calibrators ``max`` is used: ``entropy`` keeps histograms of every tensor and once took over an hour.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segclip_deploy._optional import require
from segclip_deploy.artifacts.bundle import Bundle
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.errors import BadArtifact
from segclip_deploy.export.onnx_model import load_model, save_model
from segclip_deploy.quantization.fp16 import FP16_MAX
from segclip_deploy.quantization.qdq import storable
from segclip_deploy.runtime.child_python import run_child

if TYPE_CHECKING:
    from segclip_deploy.export.onnx_types import OnnxGraph, OnnxModel, OnnxValue

__all__ = ["MODELOPT", "MODELOPT_METHOD", "place_with_modelopt"]

MODELOPT = "nvidia-modelopt"
"""The package whose version a bundle names."""

MODELOPT_METHOD = "max"
"""How modelopt reads a range: the largest magnitude is the last level."""

_FIX = "leave out --placement modelopt"
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_PRODUCTS = ("Conv", "Gemm", "MatMul")
_CHILD = """
import json, sys
from pathlib import Path
import numpy as np
from segclip_deploy._optional import require
quantization = require("modelopt.onnx.quantization", why="--placement modelopt")
model, tiles, excluded, shape, method, out = sys.argv[1:]
quantization.quantize(
    model,
    quantize_mode="int8",
    calibration_data={"image": np.load(tiles, mmap_mode="r", allow_pickle=False)},
    calibration_shapes=f"image:{shape}",
    calibration_method=method,
    calibration_eps=["cpu"],
    high_precision_dtype="fp32",
    nodes_to_exclude=json.loads(Path(excluded).read_text(encoding="utf-8")),
    enable_shared_constants_duplication=False,
    output_path=out,
)
"""


def place_with_modelopt(
    bundle: Bundle,
    tiles: Iterable[NDArray[np.uint8]],
    count: int,
    model: OnnxModel,
    excluded: Collection[str],
) -> frozenset[str]:
    """Have modelopt insert Q/DQ and store the weights in INT8, in place.

    Nodes and constants keep their names.

    Args:
        bundle: that the model is of, for errors and for the size of its input.
        tiles: (H, W, 3) each, that ranges are measured on.
        count: how many; they fill the bundle's batches.
        model: in FP32.
        excluded: names of nodes that modelopt must leave as they are.

    Returns:
        the nodes that multiply in INT8: Conv, Gemm and MatMul both of whose factors are dequantized.

    Raises:
        MissingDependency: modelopt is not installed.
        BadArtifact: modelopt fails, or what it makes is not this model with Q/DQ.
    """
    require("modelopt", why="--placement modelopt")
    with TemporaryDirectory() as folder:
        placed = _run(bundle, tiles, count, model, excluded, Path(folder))
    kept = [node.name for node in placed.graph if node.op_type not in _PAIR]
    if sorted(kept) != sorted(node.name for node in model.graph):
        raise BadArtifact(
            "modelopt changed more of the graph than Q/DQ", where=bundle.path, fix=_FIX
        )
    _spare(placed.graph, excluded)
    _store(placed.graph)
    model.graph = placed.graph
    int8 = frozenset(
        node.name
        for node in placed.graph
        if node.op_type in _PRODUCTS and all(map(_dequantized, node.inputs[:2]))
    )
    if not int8:
        raise BadArtifact("modelopt leaves all of this model as it is", where=bundle.path, fix=_FIX)
    return int8


def _run(
    bundle: Bundle,
    tiles: Iterable[NDArray[np.uint8]],
    count: int,
    model: OnnxModel,
    excluded: Collection[str],
    folder: Path,
) -> OnnxModel:
    """What modelopt makes of a model; all its files are in the folder."""
    source, out = folder / bundle.model_path.name, folder / "placed.onnx"
    data, names = folder / "tiles.npy", folder / "excluded.json"  # too long for a command line
    save_model(model, source)
    names.write_text(json.dumps([f"{re.escape(name)}$" for name in excluded]), encoding="utf-8")
    size = (bundle.input.height, bundle.input.width, 3)
    pixels = np.lib.format.open_memmap(data, "w+", np.uint8, (count, *size))
    for place, tile in zip(pixels, tiles, strict=True):
        place[:] = tile
    pixels.flush()
    done = run_child(
        _CHILD,
        *(str(source), str(data), str(names)),
        *("x".join(map(str, (bundle.input.batches.start, *size))), MODELOPT_METHOD, str(out)),
        environment={"TMPDIR": str(folder)},
    )
    if done.returncode or not out.is_file():
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise BadArtifact(
            f"modelopt fails on this model, exit status {done.returncode} ({said[-1]})",
            where=bundle.path,
            fix=_FIX,
        )
    return load_model(out)


def _spare(graph: OnnxGraph, excluded: Collection[str]) -> None:
    """Have excluded nodes read unrounded values, in place.

    modelopt gives the dequantized tensor to all its readers. One in FP32 would bring a cast between
    DQ and the product beside it, which then runs in no INT8 kernel.
    """
    for node in graph:
        quantize = node.inputs[0].producer() if node.op_type == "DequantizeLinear" else None
        if quantize is None:  # a constant that is INT8 already
            continue
        for user, index in tuple(node.outputs[0].uses()):
            if user.name in excluded:
                user.replace_input_with(index, quantize.inputs[0])
        if not node.outputs[0].uses():
            graph.remove([node, quantize], safe=True)


def _store(graph: OnnxGraph) -> None:
    """Store weights as INT8, and scales as FP16 beside them holds them, in place.

    modelopt leaves weights in FP32 with a Q behind each. A scale above FP16's largest number is of a
    tensor that stays FP32.
    """
    import onnx_ir as ir

    tape = ir.tape.Tape(graph)
    for node in graph:
        if node.op_type != "QuantizeLinear":
            continue
        scale = graph.initializers[node.inputs[1].name]
        values = scale.const_value.numpy()
        if values.max() <= FP16_MAX:
            values = storable(values, Scheme.TENSORRT)
            scale.const_value = ir.tensor(values, name=scale.name)
        weight = node.inputs[0].const_value
        if weight is None:
            continue
        axis = node.attributes.get_int("axis", 1)
        shape = [-1 if index == axis else 1 for index in range(len(weight.shape))]
        levels = np.clip(np.rint(weight.numpy() / values.reshape(shape)), -127, 127)
        stored = tape.initializer(ir.tensor(levels.astype(np.int8)), f"{node.inputs[0].name}.int8")
        source = node.inputs[0]
        node.outputs[0].replace_all_uses_with(stored)
        graph.remove(node, safe=True)
        if not source.uses():
            del graph.initializers[source.name]


def _dequantized(value: OnnxValue | None) -> bool:
    maker = None if value is None else value.producer()
    return maker is not None and maker.op_type == "DequantizeLinear"
