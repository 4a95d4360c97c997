"""Which channels can be pruned, which are chosen, and that nothing but those goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.engine_record import CpuDevice
from segclip_deploy.artifacts.latency_table import LatencyTable
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.scheme import Lowering
from segclip_deploy.errors import BadInput
from segclip_deploy.export.export import export_bundle
from segclip_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import TextBank, unit_rows
from segclip_deploy.training.attention_heads import open_heads
from segclip_deploy.training.choose_channels import choose_channels
from segclip_deploy.training.importance import channel_importance
from segclip_deploy.training.prunable import DECODER, PrunableChannels, find_prunable_channels
from segclip_deploy.training.prune import prune

pytest.importorskip("torch_pruning")

FAMILIES = [
    "timm:test_efficientnet",
    "timm:resnet10t",
    pytest.param("timm:tf_efficientnet_lite0", marks=pytest.mark.long),
    pytest.param("timm:convnext_atto", marks=pytest.mark.long),
    pytest.param("open_clip:RN50", marks=pytest.mark.long),
    pytest.param("open_clip:ViT-B-16", marks=pytest.mark.long),
]


def model_of(encoder: str) -> SegCLIP:
    """A model whose every channel has an effect: new ones have blocks that begin as nothing."""
    torch.manual_seed(0)
    model = SegCLIP(ModelSpec(classes=5, text_width=16, encoder=encoder, width=32))
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
    for name, scale in model.named_parameters():
        if name.endswith(".gamma"):  # of a ConvNeXt's block
            nn.init.uniform_(scale, 0.5, 1.5)
    return model.eval()


def logits_of(model: SegCLIP) -> Tensor:
    torch.manual_seed(1)
    with torch.inference_mode():
        return model(torch.rand(2, 3, 64, 96), torch.rand(5, 16), torch.rand(5, 2, 16))


def silence(model: SegCLIP, place: PrunableChannels, gone: list[int]) -> None:
    """Make the layers that read some channels take nothing of them."""
    block = place.layers[-1].rpartition(".")[0]
    readers = [model.get_submodule(place.layers[-1])]
    readers += [m for n, m in model.named_modules() if n == f"{block}.se.conv_reduce"]
    for reader in readers:
        weight = (reader.out_proj if place.unit > 1 else reader).weight
        axis = 0 if isinstance(reader, nn.ConvTranspose2d) else 1
        weight.data.index_fill_(axis, torch.tensor(gone), 0)


@pytest.mark.parametrize("encoder", FAMILIES)
def test_a_pruned_network_is_the_one_that_does_not_read_those_channels(encoder: str) -> None:
    model = model_of(encoder)
    places = find_prunable_channels(model, 64, 96)
    rng = np.random.default_rng(0)
    kept, deaf = {}, open_heads(model)
    assert places.pop().name == DECODER  # test_narrow_decoder.py
    for place in places:
        units = rng.permutation(place.count // place.unit)[: place.count // place.unit // 2]
        kept[place.name] = [
            int(u) * place.unit + at for u in sorted(units) for at in range(place.unit)
        ]
        silence(deaf, place, [c for c in range(place.count) if c not in kept[place.name]])
    pruned = prune(model, kept)
    expected = logits_of(deaf)
    assert not torch.allclose(expected, logits_of(model), atol=0.02)
    torch.testing.assert_close(logits_of(pruned), expected, atol=1e-3, rtol=1e-3)
    assert {p.name: p.count for p in find_prunable_channels(pruned, 64, 96)} == {
        DECODER: 32,
        **{name: len(channels) for name, channels in kept.items()},
    }
    rebuilt = SegCLIP(pruned.spec).eval()
    rebuilt.load_state_dict(pruned.state_dict())
    assert torch.equal(logits_of(rebuilt), logits_of(pruned))


@pytest.mark.long
@pytest.mark.parametrize("encoder", ["timm:resnet10t", "open_clip:RN50", "open_clip:ViT-B-16"])
def test_every_family_exports_when_pruned(
    encoder: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = model_of(encoder)
    places = find_prunable_channels(model, 64, 64)
    pruned = prune(model, {p.name: range(p.widths(8)[-1]) for p in places})
    old = load_checkpoint(tiny_checkpoint)
    small = replace(old, spec=pruned.spec, weights=pruned.state_dict())
    save_checkpoint(tmp_path / "small.safetensors", small)
    bundle = export_bundle(
        tmp_path / "small.safetensors",
        tmp_path / "bundle",
        spec=InputSpec(height=64, width=64),
        lowerings=[Lowering.CPU],
    )
    assert bundle.record.model == pruned.spec


def test_what_the_decoder_reads_and_what_flows_between_blocks_stays() -> None:
    model = model_of("timm:test_efficientnet")
    names = [
        place.name.removeprefix("encoder.body.") for place in find_prunable_channels(model, 64, 64)
    ]
    assert names == [
        "conv_stem",
        "blocks.0.0.conv",
        "blocks.1.0.conv_exp",
        "blocks.2.0.conv_exp",
        "blocks.3.0.conv_pw",
        "blocks.4.0.conv_pw",
        "decoder",
    ]


def test_a_place_without_any_channel_is_refused_and_one_that_is_none() -> None:
    model = model_of("timm:test_efficientnet")
    with pytest.raises(BadInput, match="no channel is left"):
        prune(model, {"encoder.body.conv_stem": []})
    with pytest.raises(BadInput, match="conv_pwl makes no channels that could be pruned"):
        prune(model, {"encoder.body.blocks.1.0.conv_pwl": [0]})


def test_a_size_that_encoders_do_not_take_is_refused() -> None:
    with pytest.raises(BadInput, match="100x64 is not a size in multiples of 32"):
        find_prunable_channels(model_of("timm:test_efficientnet"), 100, 64)


def test_an_encoder_that_cannot_be_followed_is_refused_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of("timm:test_efficientnet")
    monkeypatch.setattr(model.encoder.body.conv_stem, "forward", lambda x: x.nothing)
    with pytest.raises(BadInput, match="cannot be pruned") as refused:
        find_prunable_channels(model, 64, 64)
    assert refused.value.where == "encoder timm:test_efficientnet"


def test_a_channel_that_nothing_reads_is_the_least_important() -> None:
    model = model_of("timm:test_efficientnet")
    rng = np.random.default_rng(0)
    bank = TextBank(
        unit_rows(rng.normal(size=(5, 16))), unit_rows(rng.normal(size=(5, 2, 16))), "r"
    )
    places = find_prunable_channels(model, 64, 64)
    deaf = [3, 7]
    for place in places[:-1]:
        weight = model.get_submodule(place.layers[-1]).weight
        weight.data.index_fill_(1, torch.tensor(deaf), 0)
    for level in model.decoder.convs.values():  # neither scaled nor shifted by BatchNorm: always 0
        level[1].weight.data[deaf] = 0
        level[1].bias.data[deaf] = 0
    batches = [(torch.rand(2, 3, 64, 64), torch.randint(5, (2, 64, 64))) for _ in range(2)]
    found = channel_importance(model, bank, places, batches)
    for place in places:
        if len(place.layers) < 3:  # squeeze-excite reads the others, too
            assert set(np.argsort(found[place.name])[:2]) == set(deaf)
            assert (np.delete(found[place.name], deaf) > 0).mean() > 0.5


def table_of(layers: dict[str, tuple[tuple[int, float], ...]]) -> LatencyTable:
    return LatencyTable(
        checkpoint="0" * 64,
        window=(64, 64),
        target="openvino",
        engine="e",
        device=CpuDevice(cpu="c", machine="m", cores=1, flags=()),
        network_ms=10.0,
        layers=layers,
        rounds=1,
    )


PLACES = [
    PrunableChannels(("a", "a2"), ((1, 4, 8, 8),) * 2, 32),
    PrunableChannels(("b", "b2"), ((1, 4, 8, 8),) * 2, 32),
    PrunableChannels(("h",), ((1, 9, 16),) * 1, 16, unit=8),
]
IMPORTANCE = {
    "a": np.arange(32.0) / 100,
    "b": np.arange(32.0)[::-1] / 100,
    "h": np.array([9.0, 1.0]),
}


def test_the_least_important_per_millisecond_goes_first() -> None:
    """Both layers are alike but for their times; b saves ten times as much."""
    table = table_of(
        {"a": ((32, 1.1), (8, 1.0)), "b": ((32, 2.0), (8, 1.0)), "h": ((16, 1.5), (8, 1.0))}
    )
    choice = choose_channels(PLACES, IMPORTANCE, table, saving_ms=0.3, multiple=8)
    assert choice.kept == {"b": list(range(24))}
    assert (choice.saved_ms, choice.reached) == (pytest.approx(1 / 3), True)


def test_a_width_that_saves_nothing_is_passed_over_and_heads_go_whole() -> None:
    table = table_of({"a": ((32, 1.0), (16, 1.0), (8, 0.5)), "h": ((16, 3.0), (8, 1.0))})
    choice = choose_channels(PLACES, IMPORTANCE, table, saving_ms=9.0, multiple=8)
    assert choice.kept == {"a": list(range(24, 32)), "h": list(range(8))}
    assert (choice.saved_ms, choice.reached) == (2.5, False)


def test_a_noisy_table_never_says_that_fewer_channels_take_longer() -> None:
    table = table_of({"a": ((32, 1.0), (24, 1.2), (16, 0.6))})
    assert [table.ms("a", width) for width in (32, 28, 24, 20, 16)] == pytest.approx(
        [1.0, 1.0, 1.0, 0.8, 0.6]
    )
    with pytest.raises(ValueError, match="not at 8"):
        table.ms("a", 8)


@pytest.mark.parametrize("times", [(), ((8, 1.0), (16, 2.0)), ((16, 2.0), (16, 1.0)), ((16, 0.0),)])
def test_a_table_that_makes_no_sense_is_refused(times: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(BadInput, match=r"layers\.a"):
        table_of({"a": times})


def test_a_width_is_a_multiple_but_for_the_whole() -> None:
    assert PrunableChannels(("a", "b"), ((1, 8, 4, 4),) * 2, 44).widths(16) == [44, 32, 16]
    assert PrunableChannels(("a",), ((1, 9, 768),) * 1, 768, unit=64).widths(8)[-2:] == [256, 192]
    assert PrunableChannels(("a", "b"), ((1, 8, 4, 4),) * 2, 16).widths(16) == [16]
    assert PrunableChannels((DECODER,), (), 60, divisor=6).widths(8) == [60, 48, 24]
