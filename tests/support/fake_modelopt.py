"""Stands in for modelopt.onnx.quantization: places Q/DQ in its form, on every Conv that is not excluded."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

TINY = np.float32(1e-9)
"""A scale that FP16 does not hold."""


def install(folder: Path, *, then: str = "") -> Path:
    """A folder for ``sys.path`` in which this is nvidia-modelopt 0.0; returns it.

    Args:
        then: code that runs after ``quantize``, with its arguments in ``given``.
    """
    package = folder / "modelopt" / "onnx" / "quantization"
    package.mkdir(parents=True)
    for place in (package.parent.parent, package.parent):
        (place / "__init__.py").touch()
    (package / "__init__.py").write_text(
        "from tests.support import fake_modelopt\n"
        "def quantize(model, **given):\n"
        "    fake_modelopt.quantize(model, **given)\n"
        f"    {then or 'pass'}\n"
    )
    information = folder / "nvidia_modelopt-0.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: nvidia-modelopt\nVersion: 0.0\n"
    )
    return folder


def quantize(
    model: str,
    *,
    quantize_mode: str,
    calibration_data: Mapping[str, NDArray[np.uint8]],
    calibration_shapes: str,
    calibration_method: str,
    calibration_eps: Sequence[str],
    high_precision_dtype: str,
    nodes_to_exclude: Sequence[str],
    enable_shared_constants_duplication: bool,
    output_path: str,
) -> None:
    """As modelopt 0.47: weights stay FP32 with Q/DQ behind them, and all readers get the rounded tensor."""
    print("a log line\n" * 1000, file=sys.stderr)
    assert (quantize_mode, calibration_method, high_precision_dtype) == ("int8", "max", "fp32")
    assert not enable_shared_constants_duplication
    assert list(calibration_eps) == ["cpu"]
    tiles = calibration_data["image"]
    assert calibration_shapes == "image:" + "x".join(map(str, (1, *tiles.shape[1:])))
    assert Path(os.environ["TMPDIR"]) == Path(output_path).parent  # so that nothing is left behind
    proto = onnx.load(model)
    weights = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    excluded = [re.compile(pattern) for pattern in nodes_to_exclude]
    chosen = [
        node
        for node in proto.graph.node
        if node.op_type == "Conv" and not any(one.match(node.name) for one in excluded)
    ]
    made: dict[str, list[onnx.NodeProto]] = {}
    for node in chosen:
        read, weight = node.input[:2]
        absmax = np.abs(weights[weight]).max(axis=tuple(range(1, weights[weight].ndim)))
        absmax[0] = TINY * 127
        made.setdefault(read, _pair(proto.graph, read, np.float32(tiles.max() / 127), {}))
        made.setdefault(weight, _pair(proto.graph, weight, absmax / np.float32(127), {"axis": 0}))
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            if name in made:
                node.input[index] = made[name][1].output[0]
    _insert(proto.graph, made)
    onnx.save(proto, output_path)


def rename_last(path: str) -> None:
    """Give the last node of a file another name."""
    proto = onnx.load(path)
    proto.graph.node[-1].name += "x"
    onnx.save(proto, path)


def _pair(
    graph: onnx.GraphProto, name: str, scale: Any, axis: Mapping[str, int]
) -> list[onnx.NodeProto]:
    constants = [f"{name}_scale", f"{name}_zero_point"]
    for constant, array in zip(constants, (scale, np.zeros_like(scale, np.int8)), strict=True):
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), constant))
    names = [name, f"{name}_QuantizeLinear_Output", f"{name}_DequantizeLinear_Output"]
    return [
        helper.make_node(kind, [read, *constants], [out], f"{name}_{kind}", **axis)
        for kind, read, out in zip(
            ("QuantizeLinear", "DequantizeLinear"), names, names[1:], strict=False
        )
    ]


def _insert(graph: onnx.GraphProto, made: Mapping[str, list[onnx.NodeProto]]) -> None:
    """Each pair right behind what makes its tensor."""
    nodes = [pair for name in made if _is_constant(graph, name) for pair in made[name]]
    for node in graph.node:
        nodes.append(node)
        nodes += [pair for name in node.output for pair in made.get(name, ())]
    del graph.node[:]
    graph.node.extend(nodes)


def _is_constant(graph: onnx.GraphProto, name: str) -> bool:
    return any(initializer.name == name for initializer in graph.initializer)
