"""How much the inner channels of an encoder matter on real tiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segclip_deploy.model.attention import PrunedAttention
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import TextBank
from segclip_deploy.training.losses import segmentation_loss
from segclip_deploy.training.prunable import InnerChannels, open_heads

__all__ = ["channel_importance"]


def channel_importance(
    model: SegCLIP,
    bank: TextBank,
    places: Sequence[InnerChannels],
    batches: Iterable[tuple[Tensor, Tensor]],
) -> dict[str, NDArray[np.float64]]:
    """What the loss would change by without each channel, to first order, squared: one value a unit.

    (Σ_x a ∂L/∂a)², the mean over images, where a is what the last layer of a place reads (Molchanov et al.,
    CVPR 2019, with a gate at every channel).

    Args:
        places: of this model.
        batches: normalised images (B, 3, H, W) and labels (B, H, W).

    Returns:
        (count / unit,) by name of the place.
    """
    work = open_heads(model).eval().requires_grad_(False)
    device = next(work.parameters()).device
    classes, texts = (torch.from_numpy(a).to(device) for a in (bank.classes, bank.texts))
    total = {place.name: torch.zeros(place.count // place.unit, device=device) for place in places}
    images = 0
    with _watching(work, places) as seen:
        for image, labels in batches:
            image.requires_grad_(True)  # nothing else does, and a gradient must have a way
            segmentation_loss(work.decode(image, classes, texts), labels).backward()
            images += len(image)
            for place in places:
                total[place.name] += _squared(seen[place.name], place, work) * len(image) ** 2
    # The loss is a mean over the images of a batch, so a gradient is that of one image over their number.
    return {name: (t / max(images, 1)).cpu().double().numpy() for name, t in total.items()}


@contextmanager
def _watching(model: SegCLIP, places: Sequence[InnerChannels]) -> Iterator[Mapping[str, Tensor]]:
    """While the body runs, what the last layer of each place read in the last forward pass, by name."""
    seen: dict[str, Tensor] = {}

    def watch(place: InnerChannels) -> torch.utils.hooks.RemovableHandle:
        def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            given[0].retain_grad()
            seen[place.name] = given[0]

        return _reader(model, place).register_forward_pre_hook(keep)

    handles = [watch(place) for place in places]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _reader(model: SegCLIP, place: InnerChannels) -> nn.Module:
    layer = model.get_submodule(place.layers[-1])
    return layer.out_proj if isinstance(layer, PrunedAttention) else layer


def _squared(read: Tensor, place: InnerChannels, model: SegCLIP) -> Tensor:
    """Of activations with their gradient: (count / unit,), summed over the images."""
    assert read.grad is not None  # retained, and the loss depends on it
    effect = read.detach() * read.grad
    axis = -1 if isinstance(_reader(model, place), nn.Linear) else 1
    per_channel = effect.movedim(axis, -1).flatten(1, -2).sum(1)
    return per_channel.unflatten(1, (-1, place.unit)).sum(-1).square().sum(0)
