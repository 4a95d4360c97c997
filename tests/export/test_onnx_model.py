"""Graphs as they are loaded: complete, or refused."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from segclip_deploy.errors import BadArtifact
from segclip_deploy.export.onnx_model import load_model


def written(path: Path, body: str) -> Path:
    header = '<ir_version: 10, opset_import: ["": 19]> g'
    model = parser.parse_model(f"{header} (float[2,3] x, int64[k] sides) => (float[2,3] y) {body}")
    for index, node in enumerate(model.graph.node):
        node.name = f"net/{index}"
    onnx.save(model, path)
    return path


def test_everything_in_a_loaded_graph_has_a_name_a_type_and_a_shape(open_bundle: Path) -> None:
    graph = load_model(open_bundle / "model.onnx").graph
    assert len(graph) > 100
    assert all(node.name for node in graph)
    values = [*graph.inputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs)]
    assert all(value.name and value.type is not None for value in values)
    assert any(isinstance(side, ir.SymbolicDim) for value in values for side in value.shape)


def test_a_node_without_a_name_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", "{ z = Neg(x)  y = Relu(z) }")
    assert [node.name for node in load_model(path).graph] == ["net/0", "net/1"]
    model = onnx.load(path)
    model.graph.node[1].name = ""
    onnx.save(model, path)
    with pytest.raises(BadArtifact, match="a node Relu has no name") as caught:
        load_model(path)
    assert caught.value.where == str(path)
    assert "segclip-deploy export" in str(caught.value)


def test_a_tensor_whose_shape_only_a_run_shows_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", "{ open = Reshape(x, sides)  y = Reshape(open, sides) }")
    with pytest.raises(BadArtifact, match="the type or shape of tensor open cannot be") as caught:
        load_model(path)
    assert caught.value.where == str(path)


def test_an_output_that_is_left_out_needs_no_shape(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", "{ y, mask = Dropout(x) }")
    model = onnx.load(path)
    model.graph.node[0].output[1] = ""
    onnx.save(model, path)
    (node,) = load_model(path).graph
    assert [value.name for value in node.outputs] == ["y", ""]
