"""The whole model with its text folded in, where that pays."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from segclip_deploy.artifacts import InputSpec
from segclip_deploy.export.folded import FoldedFusion, FoldedRefiner, cosine_map
from segclip_deploy.export.graph import ConstantText
from segclip_deploy.export.macs import BlockMacs, folding_table
from segclip_deploy.model.cff import unit
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import TextBank

__all__ = ["FoldedSegCLIP", "fold", "fold_network"]


class FoldedSegCLIP(nn.Module):
    """SegCLIP without text: normalised image (B, 3, H, W) → logits (B, K, H/4, W/4).

    Args:
        model: trained.
        classes: (K, D_t).
        texts: (K, M, D_t).
        table: MACs by block; where folding does not pay the text stays a constant.
    """

    text: Tensor
    score_scale: Tensor
    head_scale: Tensor

    def __init__(
        self, model: SegCLIP, classes: Tensor, texts: Tensor, table: Sequence[BlockMacs]
    ) -> None:
        super().__init__()
        self.table = tuple(table)
        blocks = {block.block for block in table if block.pays}
        text = model.adapter(classes)
        scale = model.score_scale()
        self.encoder = model.encoder
        self.decoder = copy.deepcopy(model.decoder)
        for stride, level in model.decoder.fusions.items():
            if f"cff.{stride}" in blocks:
                self.decoder.fusions[stride] = FoldedFusion(cast("Any", level), text, scale)
        self.refiner = None
        if model.refiner is not None:
            real_texts = model.adapter(texts.flatten(0, 1))
            folded = "refiner" in blocks
            self.refiner = FoldedRefiner(model.refiner, text, real_texts, folded=folded)
        self.register_buffer("text", text)
        self.register_buffer("score_scale", scale)
        self.register_buffer("head_scale", model.head_scale())

    def forward(self, image: Tensor) -> Tensor:
        """Run the network."""
        pixels, updates, _ = self.decoder(self.encoder(image), self.text, self.score_scale)
        queries = self.text[None].expand(image.shape[0], -1, -1)
        for update in updates:
            queries = queries + update
        if self.refiner is not None:
            queries = self.refiner(queries)
        return cosine_map(self.head_scale * unit(queries), pixels)


def fold_network(
    network: nn.Module, bank: TextBank, spec: InputSpec
) -> tuple[nn.Module, tuple[BlockMacs, ...]]:
    """Fold text into any network: SegCLIP here, another by its own ``fold``, if it has one.

    Returns:
        A network image → logits, and what folding saves, for SegCLIP.
    """
    if isinstance(network, SegCLIP):
        folded = fold(network, bank, spec.height, spec.width)
        return folded, folded.table
    if callable(own := getattr(network, "fold", None)):
        return cast("nn.Module", own(bank)).eval(), ()
    return ConstantText(network, bank), ()


def fold(model: SegCLIP, bank: TextBank, height: int, width: int) -> FoldedSegCLIP:
    """Fold a bank into a model, exactly, in every block where that pays at this image size.

    The products are taken in float64 and rounded once, to the model's own type.
    """
    table = folding_table(model.spec, height, width, bank.texts[..., 0].size)
    dtype = next(model.parameters()).dtype
    exact = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        classes, texts = (torch.from_numpy(a).double() for a in (bank.classes, bank.texts))
        return FoldedSegCLIP(exact, classes, texts, table).to(dtype).eval().requires_grad_(False)
