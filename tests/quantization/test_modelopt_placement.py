"""modelopt as a second placement: what it may touch, what is made of its file, and what goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from segclip_deploy.artifacts.bundle import Bundle, load_bundle
from segclip_deploy.artifacts.bundle_record import Calibration
from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.artifacts.plan import save_plan
from segclip_deploy.artifacts.records import replace
from segclip_deploy.artifacts.scheme import Scheme
from segclip_deploy.calibration.table import load_table
from segclip_deploy.export.onnx_model import load_model
from segclip_deploy.quantization.placement import uniform_plan
from tests.conftest import EXAMPLE
from tests.support import fake_modelopt
from tests.support.helpers import call

TILES = ("--placement", "modelopt", "--tiles", EXAMPLE / "images")
INT8 = ("--scheme", "tensorrt", "--precision", "int8")
PAIR = ("QuantizeLinear", "DequantizeLinear")
Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put the stand-in where modelopt is looked for, here and in the process of its own."""

    def put(then: str) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "modelopt"]:
            monkeypatch.delitem(sys.modules, name)
        folder = fake_modelopt.install(tmp_path_factory.mktemp("site"), then=then)
        monkeypatch.syspath_prepend(folder)

    return put


def nodes_by_name(bundle: Bundle) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in onnx.load(bundle.model_path).graph.node}


def test_modelopt_places_int8_in_the_blocks_of_a_plan_and_its_file_becomes_ours(
    install: Install, tiny_bundle: Path, tiny_table: Path, tmp_path: Path
) -> None:
    install("")
    parent = load_bundle(tiny_bundle).for_scheme(Scheme.TENSORRT)
    table = load_table(tiny_table)
    plan = uniform_plan(parent, load_model(parent.model_path).graph, Scheme.TENSORRT, "int8")
    blocks = {**plan.blocks, "encoder.stage1": "fp16"}
    save_plan(tmp_path / "p.yaml", replace(plan, blocks=blocks))
    options = ("--plan", tmp_path / "p.yaml", "--table", tiny_table, *TILES)
    result = call("quantize", tiny_bundle, *options, "-o", tmp_path / "b")
    assert result.exit_code == 0, result.output
    assert "a log line" not in result.output
    bundle = load_bundle(tmp_path / "b")
    record = bundle.record.quantization
    assert record is not None
    assert record.placement == "modelopt"
    known = table.appearance
    assert record.calibration == Calibration(method="max", tiles=len(table.tiles), appearance=known)
    assert bundle.record.parents.table == table.digest
    assert bundle.record.tools["nvidia-modelopt"] == "0.0"
    assert "placed by modelopt" in call("inspect", bundle.path).stdout

    graph = onnx.load(bundle.model_path).graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    made = {out: node for node in graph.node for out in node.output}
    before = {name: n for name, n in nodes_by_name(parent).items() if name in nodes_by_name(bundle)}
    dequantized = {
        node.name: [made[name].op_type == "DequantizeLinear" for name in node.input if name in made]
        for node in graph.node
        if node.op_type not in PAIR
    }
    products = {name for name, reads in dequantized.items() if len(reads) > 1 and all(reads)}
    in_int8 = [name for name in before if blocks[block_of(name)] == "int8"]
    convs = {name for name in in_int8 if before[name].op_type == "Conv"}
    assert products == convs - record.fp32_fallback.keys()
    assert {block_of(name) for name in products} == {
        b for b, p in record.plan.items() if p == "int8"
    }
    # Not even where another reader of the same tensor is INT8.
    spared = (before.keys() - set(in_int8)) | record.fp32_fallback.keys()
    assert not [name for name in spared if any(dequantized[name])]
    for node in graph.node:
        if node.op_type in PAIR:
            scale = constants[node.input[1]]
            assert scale.min() >= np.finfo(np.float16).tiny
            assert node.op_type == "DequantizeLinear" or node.input[0] not in constants
    weights = {node.input[0] for node in made.values() if node.op_type == "DequantizeLinear"}
    stored = [constants[name] for name in weights & set(constants)]
    assert len(stored) == len({before[name].input[1] for name in products})  # some share theirs
    assert {array.dtype for array in stored} == {np.dtype(np.int8)}
    assert max(np.abs(array[1:].astype(int)).max() for array in stored) == 127
    result = call("verify", bundle.path)
    assert result.exit_code == 0, result.output


def test_a_block_in_which_modelopt_makes_nothing_int8_is_not_called_so(
    install: Install, tiny_bundle: Path, tiny_table: Path, tmp_path: Path
) -> None:
    """The stand-in takes Conv only, and some blocks have their weights in Gemm."""
    install("")
    parent = load_bundle(tiny_bundle).for_scheme(Scheme.TENSORRT)
    plan = uniform_plan(parent, load_model(parent.model_path).graph, Scheme.TENSORRT, "int8")
    result = call(
        "quantize", tiny_bundle, *INT8, "--table", tiny_table, *TILES, "-o", tmp_path / "b"
    )
    assert result.exit_code == 0, result.output
    record = load_bundle(tmp_path / "b").record
    assert record.quantization is not None
    changed = {b for b, p in record.quantization.plan.items() if p != plan.blocks[b]}
    with_conv = {block_of(n.name) for n in nodes_by_name(parent).values() if n.op_type == "Conv"}
    assert changed == set(plan.int8_blocks) - with_conv != set()
    assert {record.quantization.plan[block] for block in changed} == {"fp16"}
    assert {cost.precision for cost in record.blocks if cost.block in changed} == {"fp16"}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("raise RuntimeError('no luck')", "exit status 1 (RuntimeError: no luck)"),
        ("import os; os.abort()", "exit status -6 ("),
        ("import os; os.remove(given['output_path'])", "exit status 0 (a log line)"),
        (
            "fake_modelopt.rename_last(given['output_path'])",
            "modelopt changed more of the graph than Q/DQ",
        ),
        (
            "fake_modelopt.onnx.save(fake_modelopt.onnx.load(model), given['output_path'])",
            "modelopt leaves all of this model as it is",
        ),
    ],
    ids=["error", "crash", "no file", "another graph", "no Q/DQ"],
)
def test_what_goes_wrong_in_modelopt_is_one_line_and_leaves_nothing(
    then: str, said: str, install: Install, tiny_bundle: Path, tiny_table: Path, tmp_path: Path
) -> None:
    install(then)
    result = call(
        "quantize", tiny_bundle, *INT8, "--table", tiny_table, *TILES, "-o", tmp_path / "b"
    )
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.startswith(f"error: {tiny_bundle}: modelopt ")
    assert result.stderr.endswith("; leave out --placement modelopt\n")
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((*INT8, *TILES), 2, "--placement modelopt measures on the tiles of --table"),
        ((*INT8, "--table", "{t}", "--placement", "modelopt"), 2, "give it, and --tiles"),
        ((*INT8, "--table", "{t}", "--tiles", "x"), 2, "are for --placement modelopt"),
        ((*INT8, "--table", "{t}", "--scale", "0,9"), 2, "are for --placement modelopt"),
        (
            ("--scheme", "tensorrt", "--precision", "fp16", "--table", "{t}", *TILES),
            1,
            "leave it out",
        ),
        (("--scheme", "cpu", "--precision", "int8", "--table", "{t}", *TILES), 1, "leave it out"),
        (
            (*INT8, "--table", "{t}", *TILES),
            1,
            "package 'modelopt', which is not installed; pip install",
        ),
    ],
)
def test_modelopt_is_asked_for_with_all_that_it_needs(
    arguments: tuple[object, ...],
    code: int,
    said: str,
    tiny_bundle: Path,
    tiny_table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    given = (str(word).format(t=tiny_table) for word in arguments)
    result = call("quantize", tiny_bundle, *given, "-o", tmp_path / "b")
    assert result.exit_code == code, result.output
    assert said in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_modelopt_itself_keeps_the_labels_of_the_example_and_builds_in_tensorrt_rtx(
    example_bundle: Path, example_table: Path, example_images: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("modelopt", reason="needs pip install '.[quantize]'")
    trt = pytest.importorskip("tensorrt_rtx")
    tiles = [word for place in example_images for word in ("--tiles", place)]
    options = (*INT8, "--table", example_table, "--placement", "modelopt", *tiles)
    out = tmp_path / "b"
    result = call("quantize", example_bundle, *options, "-o", out)
    assert result.exit_code == 0, result.output
    bundle = load_bundle(out)
    record = bundle.record.quantization
    assert record is not None
    assert record.quality.label_agreement > 0.94
    assert record.int8_macs > 0.95
    assert call("verify", out).exit_code == 0
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(bundle.model_path))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    assert builder.build_serialized_network(network, config) is not None
