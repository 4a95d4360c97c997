"""How much channels matter on real tiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from segclip_deploy.model.attention import PrunedAttention
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import TextBank
from segclip_deploy.training.attention_heads import open_heads
from segclip_deploy.training.losses import segmentation_loss
from segclip_deploy.training.prunable import DECODER, PrunableChannels

__all__ = ["channel_importance"]


def channel_importance(
    model: SegCLIP,
    bank: TextBank,
    places: Sequence[PrunableChannels],
    batches: Iterable[tuple[Tensor, Tensor]],
) -> dict[str, NDArray[np.float64]]:
    """What the loss would change by without each channel, to first order, squared: one value a unit.

    (Σ_x a ∂L/∂a)², the mean over images, where a is what the last layer of a place reads, or, of the working
    width, what every level of the decoder gives (Molchanov et al., CVPR 2019, with a gate at every channel).

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
            for values in seen.values():
                values.clear()
            segmentation_loss(work.decode(image, classes, texts), labels).backward()
            images += len(image)
            for place in places:
                total[place.name] += _squared(seen[place.name], place, work) * len(image) ** 2
    # The loss is a mean over the images of a batch, so a gradient is that of one image over their number.
    return {name: (t / max(images, 1)).cpu().double().numpy() for name, t in total.items()}


@contextmanager
def _watching(
    model: SegCLIP, places: Sequence[PrunableChannels]
) -> Iterator[Mapping[str, list[Tensor]]]:
    """While the body runs, what carried the channels of each place in the last forward pass, by name."""
    seen: dict[str, list[Tensor]] = {place.name: [] for place in places}
    handles: list[RemovableHandle] = []
    for place in places:
        keep = partial(_keep, seen[place.name])
        if place.name == DECODER:
            levels = model.decoder.convs.values()
            handles += [
                level.register_forward_hook(lambda *of, k=keep: k(of[2])) for level in levels
            ]
        else:
            reader = _reader(model, place)
            handles.append(reader.register_forward_pre_hook(lambda *of, k=keep: k(of[1][0])))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep(seen: list[Tensor], values: Tensor) -> None:
    values.retain_grad()
    seen.append(values)


def _reader(model: SegCLIP, place: PrunableChannels) -> nn.Module:
    layer = model.get_submodule(place.layers[-1])
    return layer.out_proj if isinstance(layer, PrunedAttention) else layer


def _squared(carried: Sequence[Tensor], place: PrunableChannels, model: SegCLIP) -> Tensor:
    """Of activations with their gradients: (count / unit,), summed over the images."""
    axis = 1
    if place.name != DECODER and isinstance(_reader(model, place), nn.Linear):
        axis = -1
    total: Tensor | None = None
    for values in carried:
        assert values.grad is not None  # retained, and the loss depends on it
        effect = (values.detach() * values.grad).movedim(axis, -1).flatten(1, -2).sum(1)
        total = effect if total is None else total + effect
    assert total is not None  # every place is passed
    return total.unflatten(1, (-1, place.unit)).sum(-1).square().sum(0)
