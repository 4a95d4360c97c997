"""Two lowerings of one function: each against plain PyTorch, and what their graphs are made of."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.bundle_record import MODEL_FILES
from segclip_deploy.artifacts.golden import load_golden
from segclip_deploy.artifacts.scheme import Lowering, Scheme
from segclip_deploy.export.blocks import blocks_of
from segclip_deploy.export.lowering import Lowered, Operators, lower
from segclip_deploy.runtime.build_engine import build_engine
from segclip_deploy.runtime.targets.onnxruntime import OnnxRuntimeBackend
from tests.support.helpers import call

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)


def operators_of(lowering: Lowering) -> Operators:
    module = Lowered()
    lower(module, lowering)
    return module.operators


@pytest.mark.parametrize("lowering", Lowering, ids=lambda lowering: lowering.value)
@PROPERTY
@given(
    sizes=st.tuples(*[st.integers(1, 3)] * 2, st.integers(2, 4), *[st.integers(1, 5)] * 2),
    bounded=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_each_operator_is_what_it_says(
    lowering: Lowering, sizes: tuple[int, ...], bounded: bool, seed: int
) -> None:
    """In float64, to its last digits: only the order of sums differs."""
    batch, heads, classes, height, width = sizes
    torch.manual_seed(seed)
    ours = operators_of(lowering)
    pixels = torch.randn(batch, 6, height, width).double()
    queries = torch.randn(batch, classes, 6).double()
    scores = torch.randn(batch, classes * heads, height, width).double()
    same_head = torch.eye(heads).double().repeat(classes, classes)[..., None, None]
    weights = torch.rand(batch, 7, height * width).double()
    logits = torch.randn(batch, classes, height, width)

    def equal(got: torch.Tensor, wanted: torch.Tensor) -> None:
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)

    equal(ours.square_sum(pixels), torch.einsum("bchw,bchw->bhw", pixels, pixels)[:, None])
    softmax = ours.softmax_over_classes(scores, heads, same_head, bounded=bounded)
    by_head = scores.reshape(batch, classes, heads, height, width).softmax(1)
    equal(softmax, by_head.reshape(scores.shape))
    equal(ours.products(queries, pixels), torch.einsum("bkc,bchw->bkhw", queries, pixels))
    equal(ours.pool(weights, pixels), torch.einsum("brn,bcn->brc", weights, pixels.flatten(2)))
    full = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    best = full.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-5  # ties may go either way
    assert torch.equal(ours.label(logits)[clear], full.argmax(1).float()[clear])


def test_the_graph_for_nvidia_has_what_tensorrt_fuses(example_bundle: Path) -> None:
    bundle = load_bundle(example_bundle)
    assert bundle.lowerings == (Lowering.CPU, Lowering.NVIDIA)
    cpu, nvidia = (onnx.load(bundle.lowered(graph).model_path) for graph in bundle.lowerings)
    assert [*blocks_of(cpu)] == [*blocks_of(nvidia)]
    kinds = Counter(node.op_type for node in nvidia.graph.node)
    assert kinds["Exp"] == kinds["Pow"] == 0
    ones = {
        i.name for i in nvidia.graph.initializer if "same_head" in i.name or "new_ones" in i.name
    }
    assert not ones
    scores = [
        node.op_type
        for block, nodes in blocks_of(nvidia).items()
        for node in nodes
        if "score" in block
    ]
    assert "Transpose" not in scores
    assert Counter(n.op_type for n in blocks_of(nvidia)["graph"]) == {
        "Cast": 3, "Reshape": 2, "Sub": 1, "Mul": 1, "Transpose": 1, "Resize": 1, "ArgMax": 1
    }  # fmt: skip


@pytest.mark.parametrize("bundle", ["tiny_bundle", "open_bundle", "example_bundle"])
def test_both_graphs_give_the_golden_logits(bundle: str, request: pytest.FixtureRequest) -> None:
    loaded = load_bundle(request.getfixturevalue(bundle))
    for link in loaded.record.parity:
        assert link.max_logit_error < 1e-4
        assert link.label_agreement >= 0.9999
    told = [link.engine.rpartition("for ")[2] for link in loaded.record.parity]
    assert told == ["cpu", "nvidia"] * 2
    golden = load_golden(loaded.golden_path)
    batch = loaded.input.batches.start
    for lowering in loaded.lowerings:
        path = loaded.lowered(lowering).model_path
        with OnnxRuntimeBackend(path, batches=loaded.input.batches, reference=True) as backend:
            for tile, labels in zip(golden.tiles, golden.labels, strict=True):
                got = backend.infer({"image": np.repeat(tile[None], batch, axis=0)})["labels"][0]
                assert (got == labels).mean() >= 0.9999


@pytest.mark.parametrize("lowering", Lowering, ids=lambda lowering: lowering.value)
def test_one_graph_alone_can_be_kept_and_an_engine_of_the_other_kind_says_so(
    lowering: Lowering, tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "b"
    shutil.copytree(tiny_bundle, out)  # which holds both, and is replaced
    result = call(
        *("export", tiny_checkpoint, "-o", out, "--size", "32x32", "--for", lowering.value)
    )
    assert result.exit_code == 0, result.stderr
    bundle = load_bundle(out)
    assert bundle.lowerings == (lowering,)
    assert {p.name for p in out.glob("*.onnx")} == {MODEL_FILES[lowering]}
    for scheme in Scheme:
        assert bundle.for_scheme(scheme) == bundle
    assert f"graph        for {lowering.value}\n" in call("inspect", out).stdout
    with pytest.raises(ValueError, match="holds no graph for"):
        bundle.lowered(next(other for other in Lowering if other is not lowering))
    if lowering is Lowering.CPU:
        build_engine(bundle, tmp_path / "e.ort.onnx")
    else:
        told = "its graph is written for nvidia engines, and ONNX Runtime may be slower on it; .*--for cpu"
        with pytest.warns(UserWarning, match=told):
            build_engine(bundle, tmp_path / "e.ort.onnx")
