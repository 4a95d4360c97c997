"""What blocks hold and cost, counted in the exported graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.cli import main
from segclip_deploy.errors import BadArtifact
from segclip_deploy.export.blocks import blocks_of
from segclip_deploy.export.costs import count_blocks
from segclip_deploy.model.checkpoint import load_checkpoint


def small(path: Path, batch: int | str) -> Path:
    """One node of each kind that counts, on images of 8 × 8."""
    weights = {
        "grouped": np.ones((6, 1, 3, 3)),
        "up": np.ones((6, 2, 2, 2)),
        "gemm": np.ones((7, 12)),
        "matmul": np.ones((7, 5)),
        "twice": np.ones(5),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], "graph/Cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["x"], "graph/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "grouped"], ["a"], "a/Conv", group=3, strides=[2, 2]),
        helper.make_node("ConvTranspose", ["a", "up"], ["b"], "b/ConvTranspose", strides=[2, 2]),
        helper.make_node("Reshape", ["b", "rows"], ["r"], "c/Reshape"),
        helper.make_node("Gemm", ["r", "gemm"], ["g"], "c/Gemm", transB=1),
        helper.make_node("MatMul", ["g", "matmul"], ["m"], "d/MatMul"),
        helper.make_node("Add", ["m", "twice"], ["n"], "d/Add"),
        helper.make_node("Mul", ["n", "twice"], ["y"], "e/Mul"),
    ]
    initializers = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    initializers.append(numpy_helper.from_array(np.array([-1, 12]), "rows"))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, 8, 8, 3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 5])
    graph = helper.make_graph(nodes, "small", [image], [out], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]), path)
    return path


@pytest.mark.parametrize("batch", [1, 4, "batch"])
def test_the_counts_are_those_of_the_definitions(tmp_path: Path, batch: int | str) -> None:
    # 3 → 6 channels, 3 × 3, at 3 × 3 places in three groups; each place and channel then makes
    # 2 channels of 2 × 2, which is 72 numbers: 6 rows of 12, projected to 7 and to 5.
    costs = count_blocks(small(tmp_path / "small.onnx", batch))
    assert [(c.block, c.parameters, c.macs) for c in costs] == [
        ("graph", 0, 0),
        ("a", 54, 9 * 6 * 9),
        ("b", 48, 9 * 6 * 8),
        ("c", 84, 6 * 12 * 7),
        ("d", 40, 6 * 7 * 5),
        ("e", 0, 0),  # its constant was counted where it was read first
    ]
    assert {c.precision for c in costs} == {"fp32"}


def test_a_product_of_unknown_shape_is_refused(tmp_path: Path) -> None:
    path = small(tmp_path / "small.onnx", 1)
    model = onnx.load(path)
    (reshape,) = [node for node in model.graph.node if node.op_type == "Reshape"]
    nonzero = helper.make_node("NonZero", [reshape.input[0]], ["found"], "c/NonZero")
    cast = helper.make_node("Cast", ["found"], [reshape.output[0]], "c/Cast", to=TensorProto.FLOAT)
    index = list(model.graph.node).index(reshape)
    model.graph.node.remove(reshape)
    model.graph.node.insert(index, cast)
    model.graph.node.insert(index, nonzero)
    onnx.save(model, path)
    with pytest.raises(BadArtifact, match=r"the shapes of c/Gemm cannot be inferred"):
        count_blocks(path)


def test_cff_costs_what_the_folding_table_says(tiny_bundle: Path) -> None:
    """Folded levels and a plain one: the estimate that decides is the count of what is exported."""
    record = load_bundle(tiny_bundle).record
    macs = {b.block: b.macs for b in record.blocks}
    parts = ("read", "language_to_vision", "vision_to_language")
    width = record.model.width
    for table in record.folding:
        if table.block == "refiner":
            continue
        level, stride = table.block, int(table.block.removeprefix("cff."))
        counted = sum(macs[f"{level}.{part}"] for part in parts)
        if table.exported == "folded":
            # LayerNorm, which the table leaves out: the mean and the mean square of each pixel.
            counted -= 2 * width * (64 // stride) * (96 // stride)
        assert counted == getattr(table, table.exported), level


def test_a_bundle_knows_its_blocks_whatever_its_batch(
    tiny_bundle: Path, open_bundle: Path, tiny_checkpoint: Path
) -> None:
    record, of_open = load_bundle(tiny_bundle).record, load_bundle(open_bundle).record
    blocks = record.blocks
    assert [b.block for b in blocks] == list(blocks_of(onnx.load(tiny_bundle / "model.onnx")))
    assert [b.macs for b in of_open.blocks] == [b.macs for b in blocks]
    weights = load_checkpoint(tiny_checkpoint).weights
    encoder = sum(
        tensor.numel()
        for name, tensor in weights.items()
        if name.startswith("encoder") and tensor.ndim == 4
    )
    counted = sum(b.parameters for b in blocks if b.block.startswith("encoder"))
    # BatchNorm has become a bias of each convolution: a few numbers more than the kernels.
    assert encoder <= counted < 1.1 * encoder


def test_inspect_prints_the_blocks_and_their_sum(tiny_bundle: Path) -> None:
    record = json.loads(CliRunner().invoke(main, ["inspect", str(tiny_bundle), "--json"]).stdout)
    told = CliRunner().invoke(main, ["inspect", str(tiny_bundle)]).stdout
    lines = [line.split() for line in told.splitlines()]
    for block in record["blocks"]:
        share = block["macs"] / sum(b["macs"] for b in record["blocks"])
        numbers = [f"{block['parameters']:,}", f"{block['macs']:,}", f"{share:.1%}"]
        assert [block["block"], *numbers, "fp32"] in lines
    sums = [f"{sum(b[key] for b in record['blocks']):,}" for key in ("parameters", "macs")]
    assert ["all", *sums, "100.0%"] in lines
