"""A narrower decoder keeps the channels that it is given, of everything that shares them."""

from __future__ import annotations

import pytest
import torch

from segclip_deploy.errors import BadInput
from segclip_deploy.training.narrow_decoder import narrow_decoder
from tests.training.test_prunable import logits_of, model_of

KEPT = [0, 3, 4, 5, 9, 12, 13, 14, 17, 20, 21, 25, 26, 28, 30, 31]


def test_all_channels_are_the_same_network() -> None:
    model = model_of("timm:test_efficientnet")
    assert torch.equal(logits_of(narrow_decoder(model, range(32))), logits_of(model))


def test_an_attention_that_reads_no_other_channels_gives_the_same() -> None:
    """Heads are half as wide: the halves that are zero go, and scores keep their scale."""
    model = model_of("timm:test_efficientnet")
    gone = [c for c in range(32) if c not in KEPT]
    for wide in (
        model.decoder.fusions["8"].language_to_vision,
        model.refiner.attention,  # type: ignore[union-attr]
    ):
        for layer in (wide.query, wide.key, wide.value):
            layer.weight.data[:, gone] = 0
            layer.weight.data.view(4, 8, 32)[:, [1, 2, 4, 7]] = 0
            layer.bias.data.view(4, 8)[:, [1, 2, 4, 7]] = 0
        wide.out.weight.data.view(32, 4, 8)[:, :, [1, 2, 4, 7]] = 0
    narrow = narrow_decoder(model, KEPT)
    torch.manual_seed(0)
    x, text = torch.randn(2, 9, 32), torch.randn(2, 5, 32)
    for wide, own in (
        (
            model.decoder.fusions["8"].language_to_vision,
            narrow.decoder.fusions["8"].language_to_vision,
        ),
        (model.refiner.attention, narrow.refiner.attention),  # type: ignore[union-attr]
    ):
        torch.testing.assert_close(own(x[..., KEPT], text[..., KEPT]), wide(x, text)[..., KEPT])


def test_a_level_that_reads_no_other_channels_gives_the_same_and_still_reads_the_score_maps() -> (
    None
):
    model = model_of("timm:test_efficientnet")
    gone = [c for c in range(32) if c not in KEPT]
    level = model.decoder.convs["16"]
    level[0].weight.data[:, gone] = 0
    own = narrow_decoder(model, KEPT).decoder.convs["16"]
    x, scores = torch.randn(1, 32, 4, 4), torch.randn(1, 5, 4, 4)
    torch.testing.assert_close(
        own(torch.cat((x[:, KEPT], scores), 1)), level(torch.cat((x, scores), 1))[:, KEPT]
    )


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(BadInput, match="a width of 6 is no multiple of 4 heads"):
        narrow_decoder(model_of("timm:test_efficientnet"), range(6))
