"""The working width of a SegCLIP, made smaller: of everything but the encoder, some channels only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from segclip_deploy.artifacts.records import replace
from segclip_deploy.errors import BadInput
from segclip_deploy.model.segclip import SegCLIP

__all__ = ["narrow_decoder"]

_ATTENTION = ("language_to_vision.", "vision_to_language.", "attention.")


def narrow_decoder(model: SegCLIP, kept: Sequence[int]) -> SegCLIP:
    """The model with some of its C working channels only, in evaluation mode.

    Decoder, fusion, refiner, text adapter and head share these channels. Attentions keep their heads,
    which become narrower: of each those channels stay whose two projections have the largest product of norms.
    The scale of what is left of the queries stays as it was.

    Args:
        kept: indices of the channels; their number is a multiple of the heads.

    Raises:
        BadInput: it is not.
    """
    spec = model.spec
    if not kept or len(kept) % spec.heads:
        raise BadInput(f"a width of {len(kept)} is no multiple of {spec.heads} heads")
    narrow = SegCLIP(replace(spec, width=len(kept)))
    state = model.state_dict()
    channels = torch.tensor(sorted(kept))
    inner = _inner_channels(state, spec.heads, len(kept) // spec.heads)
    ratio = len(kept) / spec.width
    sliced = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        given, taken = channels, channels
        if layer in inner:
            own, side = inner[layer]
            given, taken = (own, channels) if side == "out" else (channels, own)
        if name.startswith("encoder.") or tensor.ndim == 0:
            sliced[name] = tensor
            continue
        tensor = tensor.index_select(0, given)
        if kind == "weight" and tensor.ndim >= 2 and not _reads_other(name):
            # A level's convolution also reads the score maps, which follow the working channels.
            scores = torch.arange(spec.width, tensor.shape[1])
            tensor = tensor.index_select(1, torch.cat((taken, scores)))
        if layer.endswith(".query"):
            tensor = tensor * ratio**0.5  # which the forward pass divides by: heads are narrower
        sliced[name] = tensor
    narrow.load_state_dict(sliced)
    return narrow.eval()


def _reads_other(name: str) -> bool:
    """Whether a layer reads something else than working channels: the encoder's maps, or text."""
    return name.startswith("decoder.laterals.") or name == "adapter.project.weight"


def _inner_channels(
    state: Mapping[str, Tensor], heads: int, head_width: int
) -> dict[str, tuple[Tensor, str]]:
    """By layer: which channels of a pair of projections stay, and whether the layer gives or takes them."""
    found: dict[str, tuple[Tensor, str]] = {}
    pairs = [("adapter.mlp.1", "adapter.mlp.3", "in", 1)]
    for name in state:
        layer, _, last = name.rpartition(".query.")
        if last == "weight" and f"{layer}.".endswith(_ATTENTION):
            pairs += [(f"{layer}.query", f"{layer}.key", "out", heads)]
            pairs += [(f"{layer}.value", f"{layer}.out", "in", heads)]
    for first, second, side, groups in pairs:
        one, other = state[f"{first}.weight"], state[f"{second}.weight"]
        strength = one.norm(dim=1) * other.norm(dim=1 if side == "out" else 0)
        size = len(strength) // groups
        width = head_width * heads // groups
        best = strength.view(groups, size).topk(width, dim=1).indices.sort(dim=1).values
        own = (best + size * torch.arange(groups)[:, None]).flatten()
        found[first] = (own, "out")
        found[second] = (own, side)
    return found
