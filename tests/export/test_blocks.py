"""Names of nodes and constants: what precision plans and profiles speak of."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from segclip_deploy.artifacts.onnx_file import block_of
from segclip_deploy.export.blocks import _block, blocks_of
from segclip_deploy.model.encoders import build_encoder

LEVEL = ("read", "language_to_vision", "vision_to_language", "score_map")


def levels(*strides: int) -> list[str]:
    """The blocks of the decoder with CFF at some strides, in the program's order."""
    return [
        block for s in strides for block in (f"decoder.{s}", *(f"cff.{s}.{part}" for part in LEVEL))
    ]


def test_the_block_of_a_node_stands_before_its_slash() -> None:
    assert block_of("cff.16.language_to_vision/Conv_2") == "cff.16.language_to_vision"
    assert block_of("graph/Cast") == "graph"
    assert block_of("Conv_2") == ""


def test_nodes_and_constants_are_called_after_the_blocks(tiny_bundle: Path) -> None:
    """cff.32 is plain here and the others are folded: the blocks are the same."""
    model = onnx.load(tiny_bundle / "model.onnx")
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    stages = [f"encoder.stage{n}" for n in range(1, 6)]
    assert list(blocks_of(model)) == [
        *("graph", "encoder.stem", *stages, *levels(32, 16, 8), "decoder.4", "head", "refiner")
    ]
    constants = {i.name for i in model.graph.initializer}
    assert {"text.cff.8.reads", "text.cff.16.mix", "text.refiner.prototypes"} <= constants
    # The exporter's notes hold paths of the machine it ran on.
    assert not any(node.metadata_props for node in model.graph.node)


def test_a_folded_level_is_told_apart_by_what_its_constants_do(tiny_bundle: Path) -> None:
    blocks = blocks_of(onnx.load(tiny_bundle / "model.onnx"))
    readers = {
        name.removeprefix("text.").removeprefix("cff.16."): block
        for block, nodes in blocks.items()
        for node in nodes
        for name in node.input
    }
    assert readers["reads"] == "cff.16.read"
    assert readers["score_bias"] == readers["mix"] == "cff.16.language_to_vision"
    assert readers["answer_bias"] == "cff.16.vision_to_language"
    operators = {block: [node.op_type for node in nodes] for block, nodes in blocks.items()}
    assert "Exp" in operators["cff.16.language_to_vision"]  # its softmax, over classes
    assert "Softmax" in operators["cff.16.vision_to_language"]
    assert operators["cff.16.score_map"].count("MatMul") == 1
    assert operators["cff.16.read"].count("Conv") == 2  # the scores, and the mean square


def test_an_open_batch_adds_no_block(tiny_bundle: Path, open_bundle: Path) -> None:
    static, opened = (blocks_of(onnx.load(b / "model.onnx")) for b in (tiny_bundle, open_bundle))
    assert list(opened) == list(static)
    assert "Shape" in [node.op_type for node in opened["graph"]]


@pytest.mark.parametrize(
    ("encoder", "blocks"),
    [
        ("timm:tf_efficientnet_lite0", {"stem", *(f"stage{n}" for n in range(1, 8))}),
        ("timm:resnet18", {"stem", "stage1", "stage2", "stage3", "stage4"}),
        ("timm:convnext_atto", {"stem", "stage1", "stage2", "stage3", "stage4"}),
        ("timm:regnetx_002", {"stem", "stage1", "stage2", "stage3", "stage4"}),
        ("timm:mobilenetv3_small_050", {"stem", *(f"stage{n}" for n in range(1, 7))}),
        ("open_clip:RN50", {"stem", "stage1", "stage2", "stage3", "stage4"}),
        ("open_clip:ViT-B-16", {"stem", "stage1", "stage2", "stage3", "stage4", "pyramid"}),
    ],
)
def test_encoders_have_a_handful_of_stages(encoder: str, blocks: set[str]) -> None:
    leaves = [name for name, m in build_encoder(encoder).named_modules() if not list(m.children())]
    assert {_block(f"encoder.{name}") for name in leaves} == {f"encoder.{b}" for b in blocks}
