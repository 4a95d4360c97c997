"""Channels that can be pruned.

Of an encoder only inner channels are: those between two layers of one block, which nothing else reads.
They are the expansions of an MBConv, the bottlenecks of a ResNet, the hidden layer of an MLP, and the heads of
a self-attention. What flows from block to block, and what the decoder reads, keeps its width. Decoder,
fusion and head share the working width, which is pruned as one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from segclip_deploy.errors import BadInput
from segclip_deploy.model.attention import PrunedAttention
from segclip_deploy.model.channels import channels_of
from segclip_deploy.model.encoders import STRIDES
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.training.attention_heads import head_width
from segclip_deploy.training.channel_chains import find_chains, layer_shapes

__all__ = ["DECODER", "PrunableChannels", "channel_count", "find_prunable_channels"]

DECODER = "decoder"
"""Name of the working width among places to prune."""


@dataclass(frozen=True)
class PrunableChannels:
    """Channels between two layers that nothing else reads, or the working width.

    Attributes:
        layers: paths of the layers, in program order: the first makes the channels, the last reads them, and
            depthwise ones between have as many. Of a self-attention: that one alone. Of the working width:
            ``DECODER``.
        shapes: of what each layer takes, batch first, at the size that was asked for; none of the working width.
        count: channels.
        unit: channels that only go together: of a self-attention those of a head, else 1.
        divisor: of every count: of the working width the heads, else 1.
    """

    layers: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    count: int
    unit: int = 1
    divisor: int = 1

    @property
    def name(self) -> str:
        """The path of the first layer."""
        return self.layers[0]

    def widths(self, multiple: int) -> list[int]:
        """How many channels may be left, the most first: all, and multiples down to a quarter.

        PrunableChannels(("a", "b"), ((1, 8, 4, 4),) * 2, 40).widths(8)  # [40, 32, 24, 16]
        """
        step = math.lcm(multiple, self.divisor) if self.unit == 1 else self.unit
        least = max(step, -(-self.count // (4 * step)) * step)
        return [self.count, *range((self.count - 1) // step * step, least - 1, -step)]


def find_prunable_channels(model: SegCLIP, height: int, width: int) -> list[PrunableChannels]:
    """All inner channels of a model's encoder, in program order, and its working width.

        [place.name for place in find_prunable_channels(model, 512, 512)]

    Args:
        height, width: of the image that shapes are for, pixels.

    Raises:
        BadInput: no size in multiples of 32, or the encoder cannot be traced, or has no inner channels.
        MissingDependency: torch-pruning is not installed.
    """
    if min(height, width) < STRIDES[-1] or height % STRIDES[-1] or width % STRIDES[-1]:
        raise BadInput(
            f"{height}x{width} is not a size in multiples of {STRIDES[-1]}", where="--size"
        )
    shapes = layer_shapes(model, height, width)
    order = {path: index for index, path in enumerate(shapes)}
    found = []
    for _graph, chain in find_chains(model):
        layers = tuple(sorted(chain, key=order.__getitem__))
        sizes = tuple(shapes[layer] for layer in layers)
        found.append(PrunableChannels(layers, sizes, channel_count(model.get_submodule(layers[0]))))
    for path, layer in model.encoder.named_modules(prefix="encoder"):
        if isinstance(layer, (nn.MultiheadAttention, PrunedAttention)):
            found.append(
                PrunableChannels((path,), (shapes[path],), channel_count(layer), head_width(layer))
            )
    if not found:
        raise BadInput(f"{model.spec.encoder} has no inner channels that could be pruned")
    found.sort(key=lambda place: order[place.name])
    spec = model.spec
    return [*found, PrunableChannels((DECODER,), (), spec.width, divisor=spec.heads)]


def channel_count(layer: nn.Module) -> int:
    """Channels that a layer makes, or those of all heads."""
    counts = channels_of(layer)
    assert counts is not None  # layers of a chain and self-attentions have them
    return counts[1]
