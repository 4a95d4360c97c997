"""Networks with fewer channels: built from their spec alone, saved, loaded and exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segclip_deploy.artifacts import records
from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.scheme import Lowering
from segclip_deploy.errors import BadInput
from segclip_deploy.export.export import export_bundle
from segclip_deploy.model.attention import PrunedAttention
from segclip_deploy.model.channels import channels_of, set_channels
from segclip_deploy.model.checkpoint import build_model, load_checkpoint, save_checkpoint
from segclip_deploy.model.segclip import SegCLIP

CHANNELS = {
    "encoder.body.blocks.1.0.conv_exp": (16, 24),
    "encoder.body.blocks.1.0.bn1": (24, 24),
    "encoder.body.blocks.1.0.conv_pwl": (24, 24),
    "encoder.body.blocks.3.0.conv_pw": (32, 40),
    "encoder.body.blocks.3.0.bn1": (40, 40),
    "encoder.body.blocks.3.0.conv_dw": (40, 40),
    "encoder.body.blocks.3.0.bn2": (40, 40),
    "encoder.body.blocks.3.0.se.conv_reduce": (40, 8),
    "encoder.body.blocks.3.0.se.conv_expand": (8, 40),
    "encoder.body.blocks.3.0.conv_pwl": (40, 48),
}
"""Of ``timm:test_efficientnet``: an expansion, and one with a depthwise layer and squeeze-excite."""


@pytest.fixture
def pruned(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint's spec with fewer channels, and random weights of them."""
    old = load_checkpoint(tiny_checkpoint)
    spec = records.replace(old.spec, channels=CHANNELS)
    torch.manual_seed(1)
    weights = SegCLIP(spec).state_dict()
    save_checkpoint(tmp_path / "small.safetensors", replace(old, spec=spec, weights=weights))
    return tmp_path / "small.safetensors"


def logits_of(model: SegCLIP, checkpoint: Path) -> Tensor:
    bank = load_checkpoint(checkpoint).bank
    torch.manual_seed(2)
    with torch.inference_mode():
        return model(
            torch.rand(2, 3, 64, 96), torch.from_numpy(bank.classes), torch.from_numpy(bank.texts)
        )


def test_a_pruned_checkpoint_rebuilds_itself_bit_for_bit(pruned: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(pruned)
    model = build_model(checkpoint)
    for path, counts in CHANNELS.items():
        assert channels_of(model.get_submodule(path)) == counts
    again = tmp_path / "again.safetensors"
    save_checkpoint(again, replace(checkpoint, weights=model.state_dict()))
    assert again.read_bytes() == pruned.read_bytes()
    assert torch.equal(
        logits_of(build_model(load_checkpoint(again)), again), logits_of(model, pruned)
    )


def test_a_pruned_checkpoint_exports_with_its_text_folded_in(pruned: Path, tmp_path: Path) -> None:
    bundle = export_bundle(
        pruned, tmp_path / "bundle", spec=InputSpec(height=64, width=96), lowerings=[Lowering.CPU]
    )
    assert bundle.record.model.channels == CHANNELS  # parity is export's own gate


def test_an_attention_of_all_heads_is_the_one_it_stands_for() -> None:
    whole = nn.MultiheadAttention(24, 3, batch_first=True).eval()
    nn.init.normal_(whole.in_proj_bias)
    own = PrunedAttention(24, 3, 8).eval()
    own.load_state_dict(whole.state_dict())  # and its tensors have the same names
    x = torch.rand(2, 7, 24)
    torch.testing.assert_close(own(x, x, x)[0], whole(x, x, x, need_weights=False)[0])


def test_an_attention_keeps_the_heads_that_it_is_given() -> None:
    """Without the last head's part of the output projection, the last head does not matter."""
    whole = nn.MultiheadAttention(24, 3, batch_first=True).eval()
    with torch.no_grad():
        whole.out_proj.weight[:, 16:] = 0
    holder = nn.Sequential(whole)
    set_channels(holder, {"0": (24, 16)})
    state = whole.state_dict()
    for name in ("in_proj_weight", "in_proj_bias"):
        state[name] = state[name].unflatten(0, (3, 24))[:, :16].flatten(0, 1)
    state["out_proj.weight"] = state["out_proj.weight"][:, :16]
    holder[0].load_state_dict(state)
    x = torch.rand(2, 7, 24)
    torch.testing.assert_close(holder[0](x, x, x)[0], whole(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize(
    ("path", "counts", "told"),
    [
        ("encoder.body.blocks.9", (1, 1), "has no layer encoder.body.blocks.9"),
        ("encoder.body.blocks.1", (1, 1), "is a Sequential, which has no channels to set"),
        ("encoder.body.blocks.1.0.conv_exp", (16, 65), "fewer than (16, 65)"),
        ("encoder.body.blocks.3.0.conv_dw", (40, 48), "is in 128 groups"),
    ],
)
def test_channels_that_a_network_cannot_have_are_refused(
    path: str, counts: tuple[int, int], told: str, tiny_checkpoint: Path
) -> None:
    spec = load_checkpoint(tiny_checkpoint).spec
    with pytest.raises(BadInput) as refused:
        SegCLIP(records.replace(spec, channels={path: counts}))
    assert told in refused.value.what


def test_a_pruned_encoder_of_groups_keeps_them() -> None:
    layer = nn.Sequential(nn.Conv2d(8, 8, 3, groups=2))
    with pytest.raises(BadInput, match="in 2 groups"):
        set_channels(layer, {"0": (4, 4)})
