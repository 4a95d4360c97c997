"""Heads of a self-attention: how wide they are, and the layer with some of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from segclip_deploy.errors import BadInput
from segclip_deploy.model.attention import PrunedAttention
from segclip_deploy.model.segclip import SegCLIP

__all__ = ["head_width", "keep_heads", "open_heads"]


def open_heads(model: SegCLIP) -> SegCLIP:
    """A copy in which every self-attention is written out, so that what its heads give can be seen."""
    model = copy.deepcopy(model)
    for path, layer in list(model.encoder.named_modules()):
        if isinstance(layer, nn.MultiheadAttention):
            model.encoder.set_submodule(path, keep_heads(layer, range(layer.embed_dim)))
    return model


def head_width(layer: nn.MultiheadAttention | PrunedAttention) -> int:
    """Channels of a head."""
    if isinstance(layer, nn.MultiheadAttention):
        return layer.head_dim
    return layer.out_proj.in_features // layer.heads


def keep_heads(
    layer: nn.MultiheadAttention | PrunedAttention, channels: Sequence[int]
) -> PrunedAttention:
    """A self-attention with the heads that some channels are; the channels of a head go together.

    Raises:
        BadInput: half of a head is among them.
    """
    unit, kept = head_width(layer), sorted(channels)
    if len({channel // unit for channel in kept}) * unit != len(kept):
        raise BadInput(f"half of a head cannot be pruned; heads have {unit} channels")
    own = PrunedAttention(layer.out_proj.out_features, len(kept) // unit, unit)
    state = layer.state_dict()
    for name in ("in_proj_weight", "in_proj_bias"):
        state[name] = state[name].unflatten(0, (3, -1))[:, kept].flatten(0, 1)
    state["out_proj.weight"] = state["out_proj.weight"][:, kept]
    own.load_state_dict(state)
    return own.to(state["in_proj_weight"].device)
