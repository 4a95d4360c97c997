"""Channels that can be pruned, and the network without some of them.

Of an encoder only inner channels are: those between two layers of one block, which nothing else reads.
They are the expansions of an MBConv, the bottlenecks of a ResNet, the hidden layer of an MLP, and the heads of
a self-attention. What flows from block to block, and what the decoder reads, keeps its width. Decoder,
fusion and head share the working width, which is pruned as one.

Torch-Pruning's dependency graph (Fang et al., CVPR 2023) tells which layers share channels.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segclip_deploy._optional import require
from segclip_deploy.artifacts.records import replace
from segclip_deploy.errors import BadInput
from segclip_deploy.model.attention import PrunedAttention
from segclip_deploy.model.channels import channels_of
from segclip_deploy.model.encoders import STRIDES, ClipViTEncoder
from segclip_deploy.model.failures import first_line
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.training.narrow_decoder import narrow_decoder

__all__ = ["DECODER", "PrunableChannels", "find_prunable_channels", "open_heads", "prune"]

DECODER = "decoder"
"""Name of the working width among places to prune."""

_TRACED = 64  # side of the image that dependencies are traced with; they do not depend on it
_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


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
    shapes, traced = (_shapes(model, *size) for size in ((height, width), (_TRACED, _TRACED)))
    order = {path: index for index, path in enumerate(shapes)}
    names = {id(module): path for path, module in model.named_modules()}
    found = []
    for graph in _graphs(model):
        for group in graph.get_all_groups(root_module_types=list(_LAYERS)):
            layers = _chain(group, names, traced)
            if layers is not None:
                layers.sort(key=order.__getitem__)
                counts = channels_of(model.get_submodule(layers[0]))
                assert counts is not None  # _chain takes layers that have them
                sizes = tuple(shapes[layer] for layer in layers)
                found.append(PrunableChannels(tuple(layers), sizes, counts[1]))
    for path, layer in model.encoder.named_modules(prefix="encoder"):
        if isinstance(layer, (nn.MultiheadAttention, PrunedAttention)):
            found.append(
                PrunableChannels((path,), (shapes[path],), _heads_width(layer), _head_width(layer))
            )
    if not found:
        raise BadInput(f"{model.spec.encoder} has no inner channels that could be pruned")
    found.sort(key=lambda place: order[place.name])
    spec = model.spec
    return [*found, PrunableChannels((DECODER,), (), spec.width, divisor=spec.heads)]


def prune(model: SegCLIP, kept: Mapping[str, Sequence[int]]) -> SegCLIP:
    """The model with some channels only, in evaluation mode; its spec tells which layers have how many.

    Args:
        kept: which channels stay, by the name of their ``PrunableChannels``; of others all stay.

    Raises:
        BadInput: no channel of a place is left, there is no such place, or the encoder cannot be traced.
        MissingDependency: torch-pruning is not installed.
    """
    emptied = [name for name, channels in kept.items() if not channels]
    if emptied:
        raise BadInput(f"no channel is left of {emptied[0]}")
    kept, unknown = dict(kept), set(kept) - {DECODER}
    if channels := kept.pop(DECODER, None):
        model = narrow_decoder(model, channels)
    work = copy.deepcopy(model).requires_grad_(True)
    names = {id(module): path for path, module in work.named_modules()}
    shapes = _shapes(work, _TRACED, _TRACED)
    for graph in _graphs(work):
        for group in list(graph.get_all_groups(root_module_types=list(_LAYERS))):
            layers = _chain(group, names, shapes)
            if layers is None or layers[0] not in kept:
                continue
            first = work.get_submodule(layers[0])
            counts = channels_of(first)
            assert counts is not None  # _chain takes layers that have them
            unknown.discard(layers[0])
            gone = sorted(set(range(counts[1])) - set(kept[layers[0]]))
            function = graph.get_pruner_of_module(first).prune_out_channels
            if gone:
                graph.get_pruning_group(first, function, idxs=gone).prune()
    for path, channels in kept.items():
        layer = work.get_submodule(path)
        if isinstance(layer, (nn.MultiheadAttention, PrunedAttention)):
            unknown.discard(path)
            parent, _, name = path.rpartition(".")
            setattr(work.get_submodule(parent), name, _without_heads(layer, channels))
    if unknown:
        raise BadInput(f"{min(unknown)} makes no channels that could be pruned")
    spec = replace(model.spec, channels=_changed(work))
    pruned = SegCLIP(spec)
    pruned.load_state_dict(work.state_dict())
    return pruned.eval()


def open_heads(model: SegCLIP) -> SegCLIP:
    """A copy in which every self-attention is written out, so that what its heads give can be seen."""
    model = copy.deepcopy(model)
    for path, layer in list(model.encoder.named_modules()):
        if isinstance(layer, nn.MultiheadAttention):
            parent, _, name = path.rpartition(".")
            whole = _without_heads(layer, range(layer.embed_dim))
            setattr(model.encoder.get_submodule(parent), name, whole)
    return model


# ---- what depends on what


class _Traced(nn.Module):
    """Encoder and the decoder's first layers: what shares channels with those is read by the decoder."""

    def __init__(self, model: SegCLIP) -> None:
        super().__init__()
        self.encoder, self.laterals = model.encoder, model.decoder.laterals

    def forward(self, image: Tensor) -> list[Tensor]:
        pairs = zip(self.laterals.values(), self.encoder(image), strict=True)
        return [lateral(feature) for lateral, feature in pairs]


def _graphs(model: SegCLIP) -> Iterator[Any]:
    """Dependency graphs of the parts of an encoder that hold inner channels.

    A ViT's blocks differ from one another in nothing but their weights: their parts are traced one by
    one, which takes a second, and as a whole many minutes.
    """
    pruning = require("torch_pruning", why="compact")
    encoder = model.encoder
    parts: list[tuple[nn.Module, Tensor]] = [
        (_Traced(model), torch.zeros(1, 3, _TRACED, _TRACED)),
    ]
    if isinstance(encoder, ClipViTEncoder):
        width = encoder.patches.out_channels
        parts = [(block.mlp, torch.zeros(1, 2, width)) for block in encoder.blocks.resblocks]
        parts.append((encoder.to_stride4, torch.zeros(1, width, 2, 2)))
    for part, example in parts:
        with (
            _followed(model, "Torch-Pruning"),
            torch.enable_grad(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of parameters of no layer, which are not pruned
            graph = pruning.DependencyGraph().build_dependency(part, example)
        yield graph


def _chain(
    group: Any, names: Mapping[int, str], shapes: Mapping[str, tuple[int, ...]]
) -> list[str] | None:
    """Paths of a group's layers, where one makes the channels and one reads them; else None."""
    makers: list[str] = []
    readers: list[str] = []
    between: list[str] = []
    for item in group:
        layer, out = item.dep.target.module, item.dep.handler.__name__ == "prune_out_channels"
        path = names.get(id(layer))
        if path is None:  # an operator without weights, or a parameter of no layer
            if isinstance(layer, nn.Parameter):
                return None
            continue
        if not path.startswith("encoder."):
            return None
        if isinstance(layer, nn.BatchNorm2d):
            continue
        if not isinstance(layer, _LAYERS):
            return None
        if _is_pooled(layer, shapes[path]):
            continue  # squeeze-excite: it weighs the channels, and takes no time
        groups = getattr(layer, "groups", 1)
        if groups == 1:
            (makers if out else readers).append(path)
        elif groups == layer.in_channels == layer.out_channels:
            between.append(path)
        else:
            return None
    if len(makers) != 1 or len(readers) != 1:
        return None
    return [*makers, *between, *readers]


def _is_pooled(layer: nn.Module, shape: tuple[int, ...]) -> bool:
    return isinstance(layer, nn.Conv2d) and shape[2:] == (1, 1)


def _shapes(model: SegCLIP, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """What each layer of the encoder takes, by path, in program order; nothing is computed."""
    encoder = copy.deepcopy(model.encoder).to("meta")
    found: dict[str, tuple[int, ...]] = {}
    for path, layer in encoder.named_modules(prefix="encoder"):
        if channels_of(layer) is not None:
            layer.register_forward_pre_hook(
                lambda _, given, path=path: found.setdefault(path, tuple(given[0].shape)) and None
            )
    with torch.no_grad(), _followed(model, f"an image of {height}x{width}"):
        encoder(torch.zeros(1, 3, height, width, device="meta"))
    return found


@contextmanager
def _followed(model: SegCLIP, by: str) -> Iterator[None]:
    """Say in one line that the encoder cannot be pruned where the body fails."""
    try:
        yield
    except Exception as error:  # libraries of encoders share no class of errors
        told = error.what if isinstance(error, BadInput) else first_line(error)
        raise BadInput(
            f"cannot be pruned: {by} does not go through it ({told})",
            where=f"encoder {model.spec.encoder}",
        ) from error


# ---- heads


def _heads_width(layer: nn.MultiheadAttention | PrunedAttention) -> int:
    counts = channels_of(layer)
    assert counts is not None  # it is told of both kinds
    return counts[1]


def _head_width(layer: nn.MultiheadAttention | PrunedAttention) -> int:
    if isinstance(layer, nn.MultiheadAttention):
        return layer.head_dim
    return layer.out_proj.in_features // layer.heads


def _without_heads(
    layer: nn.MultiheadAttention | PrunedAttention, channels: Sequence[int]
) -> PrunedAttention:
    """A self-attention with the heads that some channels are; the channels of a head go together."""
    unit, kept = _head_width(layer), sorted(channels)
    if len({channel // unit for channel in kept}) * unit != len(kept):
        raise BadInput(f"half of a head cannot be pruned; heads have {unit} channels")
    own = PrunedAttention(layer.out_proj.out_features, len(kept) // unit, unit)
    state = layer.state_dict()
    for name in ("in_proj_weight", "in_proj_bias"):
        state[name] = state[name].unflatten(0, (3, -1))[:, kept].flatten(0, 1)
    state["out_proj.weight"] = state["out_proj.weight"][:, kept]
    own.load_state_dict(state)
    return own.to(state["in_proj_weight"].device)


def _changed(model: SegCLIP) -> dict[str, tuple[int, int]]:
    """Channels of the layers that differ from those of the encoder as its name has it."""
    whole = SegCLIP(replace(model.spec, channels={}))
    found = {}
    for path, layer in whole.encoder.named_modules(prefix="encoder"):
        now = channels_of(model.get_submodule(path)) if channels_of(layer) else None
        if now is not None and now != channels_of(layer):
            found[path] = now
    return found
