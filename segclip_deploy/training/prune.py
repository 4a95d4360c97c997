"""A network without some of its prunable channels."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import nn

from segclip_deploy.artifacts.records import replace
from segclip_deploy.errors import BadInput
from segclip_deploy.model.attention import PrunedAttention
from segclip_deploy.model.channels import channels_of
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.training.attention_heads import keep_heads
from segclip_deploy.training.channel_chains import find_chains
from segclip_deploy.training.narrow_decoder import narrow_decoder
from segclip_deploy.training.prunable import DECODER, channel_count

__all__ = ["prune"]


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
    for graph, (name, *_) in find_chains(work):
        if name not in kept:
            continue
        unknown.discard(name)
        first = work.get_submodule(name)
        gone = sorted(set(range(channel_count(first))) - set(kept[name]))
        function = graph.get_pruner_of_module(first).prune_out_channels
        if gone:
            graph.get_pruning_group(first, function, idxs=gone).prune()
    for path, channels in kept.items():
        layer = work.get_submodule(path)
        if isinstance(layer, (nn.MultiheadAttention, PrunedAttention)):
            unknown.discard(path)
            work.set_submodule(path, keep_heads(layer, channels))
    if unknown:
        raise BadInput(f"{min(unknown)} makes no channels that could be pruned")
    spec = replace(model.spec, channels=_changed(work))
    pruned = SegCLIP(spec)
    pruned.load_state_dict(work.state_dict())
    return pruned.eval()


def _changed(model: SegCLIP) -> dict[str, tuple[int, int]]:
    """Channels of the layers that differ from those of the encoder as its name has it."""
    whole = SegCLIP(replace(model.spec, channels={}))
    found = {}
    for path, layer in whole.encoder.named_modules(prefix="encoder"):
        now = channels_of(model.get_submodule(path)) if channels_of(layer) else None
        if now is not None and now != channels_of(layer):
            found[path] = now
    return found
