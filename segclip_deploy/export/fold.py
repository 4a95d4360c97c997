"""The whole model with its text folded in, where that pays."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from segclip_deploy.artifacts.bundle import InputSpec
from segclip_deploy.artifacts.bundle_record import BlockMacs
from segclip_deploy.export.algebra import Array
from segclip_deploy.export.costs import folding_table
from segclip_deploy.export.folded import (
    ConstantFusion,
    FoldedFusion,
    FoldedRefiner,
    arrays_of,
    cosine_map,
    register_constants,
)
from segclip_deploy.export.graph import ConstantText, DeployGraph
from segclip_deploy.export.lowering import Lowered
from segclip_deploy.export.text_weights import TextWeights, text_constants
from segclip_deploy.model.cff import CrossModalFusion, unit
from segclip_deploy.model.segclip import SegCLIP
from segclip_deploy.model.text import TextBank

__all__ = ["FoldedSegCLIP", "fold", "fold_network", "fold_temperature"]


class FoldedSegCLIP(Lowered):
    """SegCLIP without text: normalised image (B, 3, H, W) → logits (B, K, H/4, W/4).

    Args:
        model: trained.
        bank: the text.
        table: MACs by block; where folding does not pay the text stays a constant.
    """

    classes: Tensor
    score_scale: Tensor
    head_scale: Tensor

    def __init__(self, model: SegCLIP, bank: TextBank, table: Sequence[BlockMacs]) -> None:
        super().__init__()
        self.table = tuple(table)
        self.text = text_weights(model, bank, table)
        constants = text_constants(self.text, bank)
        self.encoder = model.encoder
        self.decoder = copy.deepcopy(model.decoder)
        for stride, level in model.decoder.fusions.items():
            block = f"cff.{stride}"
            fusion = FoldedFusion if self.text.blocks[block] else ConstantFusion
            self.decoder.fusions[stride] = fusion(
                cast("CrossModalFusion", level), _of(block, constants)
            )
        self.refiner = None
        if model.refiner is not None:
            self.refiner = FoldedRefiner(model.refiner, _of("refiner", constants))
        register_constants(self, {"classes": constants["text.classes"]})
        self.register_buffer("score_scale", model.score_scale())
        self.register_buffer("head_scale", model.head_scale())

    def forward(self, image: Tensor) -> Tensor:
        """Run the network."""
        pixels, updates, _ = self.decoder(self.encoder(image), self.classes, self.score_scale)
        queries = self.classes + sum(updates) if updates else self.classes[None]
        if self.refiner is not None:
            queries = self.refiner(queries)
        return cosine_map(self.head_scale * unit(queries), pixels, self.operators)


def fold_network(
    network: nn.Module, bank: TextBank, spec: InputSpec
) -> tuple[nn.Module, tuple[BlockMacs, ...], TextWeights | None]:
    """Fold text into any network: SegCLIP here, another by its own ``fold``, if it has one.

    Returns:
        A network image → logits; what folding saves, and what a new text can be folded in from,
        for SegCLIP. Without a fused level its text ends in one constant, which is not kept apart.
    """
    if isinstance(network, SegCLIP):
        folded = fold(network, bank, spec.height, spec.width)
        return folded, folded.table, folded.text if network.spec.cff_strides else None
    if callable(own := getattr(network, "fold", None)):
        return cast("nn.Module", own(bank)).eval(), (), None
    return ConstantText(network, bank), (), None


def fold(model: SegCLIP, bank: TextBank, height: int, width: int) -> FoldedSegCLIP:
    """Fold a bank into a model, exactly, in every block where that pays at this image size.

    The products are taken in float64 and rounded once, to the model's own type.
    """
    table = folding_table(model.spec, height, width, bank.texts[..., 0].size)
    dtype = next(model.parameters()).dtype
    model = copy.deepcopy(model).eval().requires_grad_(False)
    return FoldedSegCLIP(model, bank, table).to(dtype).eval()


def fold_temperature(graph: DeployGraph, temperature: float) -> None:
    """Divide all logits of a graph by a temperature, in place.

    SegCLIP's head multiplies its K queries by a scale, which takes it over: not one operation more. Of
    another network the last operator may be anything, so the graph divides its logits (K, H/4, W/4).
    """
    if isinstance(graph.network, FoldedSegCLIP):
        graph.network.head_scale /= temperature
    else:
        graph.temperature = temperature


def text_weights(model: SegCLIP, bank: TextBank, table: Sequence[BlockMacs]) -> TextWeights:
    """What of a model its text goes through."""
    state = model.state_dict()
    arrays = arrays_of({n: state[n] for n in state if not n.startswith("encoder.")})
    if model.refiner is not None:
        arrays |= arrays_of({"refiner.scale": model.refiner.scale()})
    return TextWeights.gather(arrays, model.spec.heads, {b.block: b.pays for b in table}, bank)


def _of(block: str, constants: dict[str, Array]) -> dict[str, Array]:
    prefix = f"text.{block}."
    return {n.removeprefix(prefix): a for n, a in constants.items() if n.startswith(prefix)}
