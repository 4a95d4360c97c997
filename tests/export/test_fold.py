from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segclip_deploy.artifacts.bundle import load_bundle
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.export.algebra import (
    Array,
    Weights,
    adapt,
    fold_context,
    fold_fusion,
    fold_pooling,
    fold_queries,
    fold_refiner,
    plain_fusion,
    plain_refiner,
)
from segclip_deploy.export.costs import folding_table, fusion_macs, refiner_macs
from segclip_deploy.export.fold import FoldedSegCLIP, fold
from segclip_deploy.export.folded import ConstantFusion, FoldedFusion, FoldedRefiner, arrays_of
from segclip_deploy.model.attention import CrossAttention
from segclip_deploy.model.cff import CrossModalFusion
from segclip_deploy.model.checkpoint import build_model, load_checkpoint
from segclip_deploy.model.segclip import QueryRefiner, SegCLIP, TextAdapter
from segclip_deploy.model.text import TextBank, unit_rows
from tests.conftest import EXAMPLE

EXACT = {"atol": 1e-9, "rtol": 1e-9}

shapes = st.fixed_dictionaries(
    {
        "classes": st.integers(2, 9),
        "heads": st.sampled_from([1, 2, 4]),
        "width": st.sampled_from([8, 16]),
        "height": st.integers(1, 6),
        "breadth": st.integers(1, 6),
        "seed": st.integers(0, 2**16),
    }
)


def shaken(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """A module in float64 whose every parameter is random, those that start at 0 or 1 too."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval().requires_grad_(False)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_(0.3 * noise)
    return module


def weights_of(module: torch.nn.Module) -> Weights:
    return Weights(arrays_of(module.state_dict()))


def tensors(arrays: Iterable[Array]) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def folded_level(level: CrossModalFusion, text: torch.Tensor) -> FoldedFusion:
    heads = level.language_to_vision.heads
    return FoldedFusion(level, fold_fusion(weights_of(level), heads, text.double().numpy()))


def test_the_adapter_is_the_models() -> None:
    adapter = shaken(TextAdapter(12, 16), 0)
    text = torch.randn(3, 5, 12).double()
    got = torch.from_numpy(adapt(weights_of(adapter), text.numpy()))
    torch.testing.assert_close(got, adapter(text), **EXACT)


@settings(max_examples=30, deadline=None)
@given(shapes)
def test_attention_to_a_constant_context_folds_exactly(shape: dict[str, int]) -> None:
    width, heads = shape["width"], shape["heads"]
    attention = shaken(CrossAttention(width, heads), shape["seed"])
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(shape["classes"], width, generator=generator, dtype=torch.float64)
    queries = torch.randn(2, shape["height"], width, generator=generator, dtype=torch.float64)
    score, score_bias, mix = tensors(fold_context(weights_of(attention), heads, context.numpy()))
    scores = (queries @ score.T + score_bias).unflatten(-1, (-1, heads))
    got = scores.softmax(-2).flatten(-2) @ mix.T + attention.out.bias
    torch.testing.assert_close(got, attention(queries, context.expand(2, -1, -1)), **EXACT)


@settings(max_examples=30, deadline=None)
@given(shapes)
def test_attention_of_constant_queries_folds_exactly(shape: dict[str, int]) -> None:
    width, heads = shape["width"], shape["heads"]
    attention = shaken(CrossAttention(width, heads), shape["seed"])
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(shape["classes"], width, generator=generator, dtype=torch.float64)
    context = torch.randn(2, shape["height"], width, generator=generator, dtype=torch.float64)
    weights = weights_of(attention)
    (score,) = tensors((fold_queries(weights, heads, queries.numpy()),))
    project, bias = tensors(fold_pooling(weights, heads))
    looks = (score @ context.transpose(1, 2)).softmax(-1)
    pooled = (looks @ context).unflatten(1, (-1, heads)).flatten(2)
    got = pooled @ project.flatten(0, 1) + bias
    torch.testing.assert_close(got, attention(queries.expand(2, -1, -1), context), **EXACT)


@settings(max_examples=40, deadline=None)
@given(shapes, st.sampled_from([0.3, 40.0]))
def test_a_fusion_level_folds_exactly(shape: dict[str, int], sharpness: float) -> None:
    level = shaken(CrossModalFusion(shape["width"], shape["heads"]), shape["seed"])
    level.language_to_vision.query.weight.mul_(sharpness)  # large scores take the other softmax
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(shape["classes"], shape["width"], generator=generator, dtype=torch.float64)
    scale = torch.tensor(17.0, dtype=torch.float64)
    size = (2, shape["width"], shape["height"], shape["breadth"])
    vision = torch.randn(size, generator=generator, dtype=torch.float64)
    plain = plain_fusion(weights_of(level), shape["heads"], text.numpy())
    for form in (folded_level(level, text), ConstantFusion(level, plain)):
        got = form(vision, text, scale)
        for one, expected in zip(got, level(vision, text, scale), strict=True):
            torch.testing.assert_close(one, expected, **EXACT)


def test_both_softmaxes_of_a_level_are_taken() -> None:
    text, scale = torch.randn(5, 16).double(), torch.tensor(10.0).double()
    level = shaken(CrossModalFusion(16, 4), 0)
    assert folded_level(level, text).bounded
    level.language_to_vision.query.weight.mul_(1000)
    sharp = folded_level(level, text)
    assert not sharp.bounded
    assert all(
        torch.isfinite(x).all() for x in sharp(torch.randn(1, 16, 4, 4).double(), text, scale)
    )


def test_a_pixel_without_variance_stays_finite() -> None:
    level = CrossModalFusion(16, 4).eval().requires_grad_(False)
    text, scale = torch.randn(5, 16), torch.tensor(10.0)
    flat = torch.linspace(1, 1000, 64).reshape(1, 1, 8, 8).expand(1, 16, 8, 8)
    folded = folded_level(level, text).float()
    assert all(torch.isfinite(x).all() for x in folded(flat, text, scale))


@pytest.mark.parametrize(("width", "heads", "texts"), [(8, 4, 6), (64, 2, 2)])
def test_the_refiner_folds_exactly_in_both_forms(width: int, heads: int, texts: int) -> None:
    refiner = shaken(QueryRefiner(width, heads), 3)
    text, real = torch.randn(4, width).double(), torch.randn(4 * texts, width).double()
    queries = torch.randn(2, 4, width).double()
    weights = Weights(arrays_of({**refiner.state_dict(), "scale": refiner.scale()}))
    for form in (fold_refiner, plain_refiner):
        constants = form(weights, heads, text.numpy(), real.numpy())
        got = FoldedRefiner(refiner, constants)(queries)
        torch.testing.assert_close(got, refiner(queries, text, real), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("cff_strides", [(), (16,), (8, 16, 32)])
@pytest.mark.parametrize("classes", [3, 16])
def test_a_whole_model_folds(
    dtype: torch.dtype, cff_strides: tuple[int, ...], classes: int
) -> None:
    rng = np.random.default_rng(0)
    spec = ModelSpec(
        classes=classes,
        text_width=6,
        encoder="timm:test_efficientnet",
        width=16,
        cff_strides=cff_strides,
    )
    model = SegCLIP(spec).eval().to(dtype)
    bank = TextBank(
        unit_rows(rng.standard_normal((classes, 6))),
        unit_rows(rng.standard_normal((classes, 2, 6))),
        "random",
    )
    image = torch.randn(2, 3, 64, 96, dtype=dtype)
    texts = (torch.from_numpy(x).to(dtype) for x in (bank.classes, bank.texts))
    with torch.inference_mode():
        error = (fold(model, bank, 512, 512)(image) - model(image, *texts)).abs().max()
    assert error <= (1e-9 if dtype == torch.float64 else 1e-4)


def test_the_trained_example_folds() -> None:
    checkpoint = load_checkpoint(EXAMPLE / "model.safetensors")
    model, bank = build_model(checkpoint), checkpoint.bank
    folded = fold(model, bank, 512, 512)
    assert isinstance(folded.decoder.fusions["8"], FoldedFusion)
    assert folded.decoder.fusions["8"].bounded
    image = torch.from_numpy(checkpoint.examples[:1]).permute(0, 3, 1, 2) / 127.5 - 1
    classes, texts = torch.from_numpy(bank.classes), torch.from_numpy(bank.texts)
    with torch.inference_mode():
        single = (folded(image) - model(image, classes, texts)).abs().max()
        model.double()
        image, classes, texts = image.double(), classes.double(), texts.double()
        exact = (fold(model, bank, 512, 512)(image) - model(image, classes, texts)).abs().max()
    assert single <= 1e-4
    assert exact <= 1e-9


def test_folding_changes_neither_the_model_nor_its_gradients(tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    model = build_model(checkpoint)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fold(model, checkpoint.bank, 512, 512)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_the_macs_are_those_of_the_matrices() -> None:
    spec = ModelSpec(classes=5, text_width=512)
    model = SegCLIP(spec).eval()
    bank = TextBank(unit_rows(np.ones((5, 512))), unit_rows(np.ones((5, 5, 512))), "ones")
    level = fold(model, bank, 512, 512).decoder.fusions["8"]
    assert isinstance(level, FoldedFusion)
    rows, pixels = 20, 64 * 64
    mean = spec.width  # the one row of `reads` that is LayerNorm's
    # Both directions read; language mixes; the softmax sums; vision pools, then projects.
    convolutions = level.reads.numel() - mean + level.mix.numel() + level.same_head.numel()
    pooling = rows * spec.width
    folded = pixels * (convolutions + pooling) + 5 * level.answer.numel()
    assert fusion_macs(spec, pixels).folded == folded


def test_folding_is_chosen_where_it_pays() -> None:
    assert fusion_macs(ModelSpec(classes=5, text_width=8), 100).pays
    many = ModelSpec(classes=40, text_width=8)
    assert not fusion_macs(many, 100).pays
    assert not refiner_macs(64, 4, 5, 25).pays
    assert refiner_macs(128, 4, 5, 25).pays
    blocks = [b.block for b in folding_table(ModelSpec(classes=5, text_width=8), 512, 512, 25)]
    assert blocks == ["cff.8", "cff.16", "cff.32", "refiner"]


def test_no_text_computation_is_left_in_the_graph(tiny_bundle: Path) -> None:
    model = onnx.load(tiny_bundle / "model.onnx")
    constants = {i.name for i in model.graph.initializer}
    for node in model.graph.node:
        assert any(name not in constants for name in node.input if name), node.name
    operators = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in operators
    # At 64×96 the six pixels of stride 32 are fewer than folding pays for; the rest is folded.
    exported = {b.block: b.exported for b in load_bundle(tiny_bundle).record.folding}
    assert exported == {
        "cff.8": "folded",
        "cff.16": "folded",
        "cff.32": "plain",
        "refiner": "plain",
    }
    assert operators.count("LayerNormalization") == 1


def test_a_model_without_refiner_or_fusion_still_folds() -> None:
    spec = ModelSpec(
        classes=3,
        text_width=6,
        encoder="timm:test_efficientnet",
        width=16,
        cff_strides=(),
        refine=False,
    )
    bank = TextBank(unit_rows(np.eye(3, 6)), unit_rows(np.ones((3, 1, 6))), "eye")
    folded = fold(SegCLIP(spec), bank, 64, 64)
    assert isinstance(folded, FoldedSegCLIP)
    assert folded.refiner is None
    assert not folded.table


def test_the_exported_example_holds_no_text_embedding_and_no_projection_of_the_pixels(
    example_bundle: Path,
) -> None:
    model = onnx.load(example_bundle / "model.onnx")
    dims = {i.name: tuple(i.dims) for i in model.graph.initializer}
    assert not [name for name, sides in dims.items() if 512 in sides]  # the text width
    cff = {i for n in model.graph.node if n.name.startswith("cff.") for i in n.input if i in dims}
    assert not [name for name in cff if dims[name][:2] == (64, 64)]  # C × C
