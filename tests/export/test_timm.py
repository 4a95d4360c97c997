"""Encoders of timm: each family is served, or refused with a reason before any work is spent.

The exports take minutes: ``make test-long``. docs/explanation/segclip.md has the same lists.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.artifacts.vocabulary import load_vocabulary
from segclip_deploy.errors import BadInput
from segclip_deploy.export.export import export_bundle
from segclip_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from segclip_deploy.model.encoders import build_encoder
from segclip_deploy.model.network import load_factory, try_network
from segclip_deploy.model.segclip import SegCLIP
from tests.conftest import ROOT
from tests.support.fakes import random_bank
from tests.support.helpers import call

SERVED = (
    "resnet18", "regnetx_002", "convnext_femto", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256", "maxvit_pico_rw_256", "mambaout_femto", "mobilenetv3_small_050",
    "mobilenetv4_conv_small", "tf_efficientnet_lite0", "lcnet_035", "starnet_s050", "mobileone_s0",
    "vgg11", "cs3darknet_s", "poolformer_s12", "dla34", "ese_vovnet19b_slim", "mobilevit_xxs",
    "edgenext_xx_small", "pvt_v2_b0", "xception41",
)  # fmt: skip
OWN_SIZE = ("coat_tiny", "efficientformer_l1")
"""They take images of one size, which is not 256 × 256."""
STRIDES = (
    "vit_tiny_patch16_224", "beit_base_patch16_224", "convmixer_768_32", "crossvit_tiny_240",
    "efficientvit_m0", "levit_128s", "nest_tiny", "pit_xs_224", "sequencer2d_s", "shvit_s1",
    "visformer_tiny", "xcit_nano_12_p8_224",
)  # fmt: skip
"""They have no features at strides 4, 8, 16 and 32."""
SIZES = ("inception_v3",)
"""Their maps are not of the sizes that their strides stand for: they do not pad."""


def spec_of(name: str) -> ModelSpec:
    return ModelSpec(classes=5, text_width=16, encoder=f"timm:{name}", width=16, heads=1)


def checkpoint_of(name: str, path: Path, size: int = 256) -> Path:
    torch.manual_seed(0)
    spec = spec_of(name)
    tiles = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    weights = SegCLIP(spec).state_dict()
    save_checkpoint(
        path, Checkpoint(spec, load_vocabulary("dubai"), random_bank(1), weights, tiles)
    )
    return path


@pytest.mark.faults
@pytest.mark.parametrize("name", ["mambaout_femto", "swinv2_tiny_window8_256", "test_resnet"])
def test_features_are_timms_own_with_channels_first(name: str) -> None:
    encoder = build_encoder(f"timm:{name}").eval()
    image = torch.randn(1, 3, 64, 128)
    with torch.inference_mode():
        theirs, ours = encoder.body(image), encoder(image)
    for stride, channels, raw, feature in zip((4, 8, 16, 32), encoder.channels, theirs, ours):  # noqa: B905
        assert feature.shape == (1, channels, 64 // stride, 128 // stride)
        # By their shapes alone: no map here has as many channels as rows.
        last = raw.shape[-1] == channels and raw.shape[1] != channels
        assert torch.equal(feature, raw.movedim(-1, 1) if last else raw)


def test_the_deepest_map_of_each_stride_is_taken_where_a_model_does_not_count_from_0() -> None:
    encoder = build_encoder("timm:dla34").eval()
    assert encoder.channels == (64, 128, 256, 512)
    with torch.inference_mode():
        maps = encoder(torch.randn(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)
    ]  # fmt: skip


def test_a_model_that_can_take_any_size_does_and_keeps_its_names() -> None:
    name = "swinv2_tiny_window8_256"  # as it comes it takes 256 × 256 alone
    encoder = build_encoder(f"timm:{name}")
    plain = timm.create_model(name, pretrained=False, features_only=True)
    assert encoder.body.state_dict().keys() == plain.state_dict().keys()
    encoder.body.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 256, 256)
    with torch.inference_mode():
        theirs = [m.permute(0, 3, 1, 2) for m in plain.eval()(image)]
        for ours, own in zip(encoder.eval()(image), theirs, strict=True):
            torch.testing.assert_close(ours, own, atol=1e-4, rtol=1e-4)


@pytest.mark.faults
@pytest.mark.parametrize("name", STRIDES)
def test_a_timm_model_without_the_four_strides_is_refused_when_it_is_built(name: str) -> None:
    with pytest.raises(BadInput, match=r"has features at strides \[.*\], not at \(4, 8, 16, 32\)$"):
        build_encoder(f"timm:{name}")


@pytest.mark.faults
@pytest.mark.parametrize("name", ["coat_tiny", "efficientformer_l1", "inception_v3"])
def test_a_timm_model_that_takes_no_such_size_is_refused_before_any_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segclip_deploy.export.export.fold_network", None)  # never reached
    checkpoint = checkpoint_of(name, tmp_path / "c.safetensors")
    result = call("export", checkpoint, "-o", tmp_path / "b", "--size", "256")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: encoder timm:{name}: takes no images of 256x256 (")
    # The remedy is one: inception's 299 is no multiple of 32, and would not help.
    assert ("the size it was made for: 224x224" in line) == (name in OWN_SIZE)


def test_the_size_that_is_named_is_taken() -> None:
    network = SegCLIP(spec_of("coat_tiny"))
    try_network(network, random_bank(1), 224, 224, where="here")
    assert network.training  # as it was


@pytest.mark.faults
def test_a_name_that_is_not_timms_own_is_asked_of_nobody() -> None:
    with pytest.raises(BadInput, match="timm has no model 'hf-hub:somebody/something'"):
        build_encoder("timm:hf-hub:somebody/something")


def test_weights_that_share_memory_are_kept_one_by_one(tmp_path: Path) -> None:
    path = checkpoint_of("coat_tiny", tmp_path / "c.safetensors", 32)
    own = SegCLIP(spec_of("coat_tiny")).state_dict()
    shared = len(own) - len({t.untyped_storage().data_ptr() for t in own.values()})
    assert shared > 0
    assert load_checkpoint(path).weights.keys() == own.keys()


def test_the_docs_have_these_lists() -> None:
    text = (ROOT / "docs" / "explanation" / "segclip.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w[^|]*?) \| (`.*) \|$", text, re.MULTILINE))
    listed = {what: tuple(re.findall(r"`(\w+)`", names)) for what, names in rows.items()}
    for what, names in {
        "served": SERVED,
        "served at their own size": OWN_SIZE,
        "refused: other strides": STRIDES,
        "refused: maps of other sizes": SIZES,
    }.items():
        assert sorted(listed[what]) == sorted(names)
    assert sum(map(len, (SERVED, OWN_SIZE, STRIDES, SIZES))) >= 30


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "size"), [*((n, 256) for n in SERVED), *((n, 224) for n in OWN_SIZE)]
)
def test_a_timm_model_is_exported_with_parity(name: str, size: int, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(name, tmp_path / "c.safetensors", size)
    bundle = export_bundle(checkpoint, tmp_path / "b", spec=InputSpec(size, size))
    assert bundle.record.parity[-1].max_logit_error < 1e-4
    assert bundle.record.parity[-1].label_agreement > 0.999


@pytest.mark.long
@pytest.mark.parametrize("name", [*OWN_SIZE, *SIZES])
def test_a_timm_model_of_another_size_is_refused(name: str) -> None:
    network = load_factory(None)(spec_of(name))
    with pytest.raises(BadInput, match=r"takes no images of 256x256 \(.+\)") as caught:
        try_network(network, random_bank(1), 256, 256, where="here")
    assert "\n" not in str(caught.value)
