"""Layers of an encoder between which channels flow that nothing else reads.

Torch-Pruning's dependency graph (Fang et al., CVPR 2023) tells which layers share channels.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from segclip_deploy._optional import require
from segclip_deploy.errors import BadInput
from segclip_deploy.model.channels import channels_of
from segclip_deploy.model.encoders import ClipViTEncoder
from segclip_deploy.model.failures import first_line
from segclip_deploy.model.segclip import SegCLIP

__all__ = ["find_chains", "layer_shapes"]

_TRACED = 64  # side of the image that dependencies are traced with; they do not depend on it
_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def find_chains(model: SegCLIP) -> Iterator[tuple[Any, list[str]]]:
    """Torch-Pruning's graph, and the paths of the layers of a chain: the first makes the channels.

    Pruning a chain leaves those that follow as they are.

    Raises:
        BadInput: the encoder cannot be traced.
        MissingDependency: torch-pruning is not installed.
    """
    names = {id(module): path for path, module in model.named_modules()}
    shapes = layer_shapes(model, _TRACED, _TRACED)
    for graph in _graphs(model):
        for group in list(graph.get_all_groups(root_module_types=list(_LAYERS))):
            layers = _chain(group, names, shapes)
            if layers is not None:
                yield graph, layers


def layer_shapes(model: SegCLIP, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """What each layer of the encoder takes, by path, in program order; nothing is computed.

    Raises:
        BadInput: the encoder takes no image of that size.
    """
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
