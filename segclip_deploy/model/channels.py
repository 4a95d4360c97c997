"""Networks with fewer channels than their encoder's name stands for: how layers are made smaller."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from segclip_deploy.errors import BadInput
from segclip_deploy.model.attention import PrunedAttention

__all__ = ["channels_of", "set_channels"]


def set_channels(network: nn.Module, channels: Mapping[str, tuple[int, int]]) -> None:
    """Give layers fewer channels, in place; their weights are new ones.

        set_channels(model, {"encoder.body.blocks.1.0.conv_pw": (16, 48)})

    Args:
        network: as its encoder's name stands for.
        channels: input and output channels by module path, as ``channels_of`` tells them.

    Raises:
        BadInput: there is no such layer, none of a kind that can be pruned, or one that has fewer.
    """
    for path, wanted in channels.items():
        try:
            layer = network.get_submodule(path)
        except AttributeError:
            raise BadInput(f"the encoder has no layer {path}") from None
        found = channels_of(layer)
        if found is None:
            raise BadInput(
                f"layer {path} is a {type(layer).__name__}, which has no channels to set"
            )
        if wanted[0] > found[0] or wanted[1] > found[1]:
            raise BadInput(f"layer {path} has channels {found}, fewer than {wanted}")
        if isinstance(layer, nn.MultiheadAttention):
            network.set_submodule(path, _narrow_attention(layer, wanted, path))
        else:
            _resize(layer, wanted, path)


def channels_of(layer: nn.Module) -> tuple[int, int] | None:
    """Input and output channels of a layer, as a spec keeps them; None where it is of another kind."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        return layer.in_channels, layer.out_channels
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, nn.BatchNorm2d):
        return layer.num_features, layer.num_features
    if isinstance(layer, nn.MultiheadAttention):
        return layer.embed_dim, layer.embed_dim
    if isinstance(layer, PrunedAttention):
        return layer.out_proj.out_features, layer.out_proj.in_features
    return None


def _narrow_attention(
    layer: nn.MultiheadAttention, wanted: tuple[int, int], path: str
) -> PrunedAttention:
    heads, rest = divmod(wanted[1], layer.head_dim)
    if wanted[0] != layer.embed_dim or rest:
        raise BadInput(f"layer {path} has heads of {layer.head_dim} channels, not {wanted}")
    return PrunedAttention(layer.embed_dim, heads, layer.head_dim)


def _resize(layer: nn.Module, wanted: tuple[int, int], path: str) -> None:
    """Set what a layer says of itself, and give it tensors of that shape."""
    taken, given = wanted
    shape = {"weight": (given, taken), "bias": (given,)}
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        if layer.groups > 1 and not (depthwise and taken == given):
            raise BadInput(f"layer {path} is in {layer.groups} groups, which {wanted} breaks up")
        layer.in_channels, layer.out_channels = taken, given
        layer.groups = given if depthwise and layer.groups > 1 else layer.groups
        first, second = (taken, given) if layer.transposed else (given, taken)
        shape["weight"] = (first, second // layer.groups, *layer.kernel_size)
    elif isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = taken, given
    elif isinstance(layer, nn.BatchNorm2d):
        layer.num_features = given
        shape["weight"] = (given,)
        for name, value in (
            ("running_mean", torch.zeros(given)),
            ("running_var", torch.ones(given)),
        ):
            layer.register_buffer(name, value)
    for name, parameter in list(layer.named_parameters(recurse=False)):
        layer.register_parameter(
            name, nn.Parameter(torch.empty(shape[name], dtype=parameter.dtype))
        )
    layer.reset_parameters()  # type: ignore[operator]
