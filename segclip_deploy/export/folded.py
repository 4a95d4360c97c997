"""Blocks of the network with the text inside; the constants, and why they are right: ``algebra``."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segclip_deploy.export.algebra import Array, Weights, is_bounded, pool_fusion
from segclip_deploy.export.lowering import Lowered, Operators
from segclip_deploy.model.cff import CrossModalFusion, unit
from segclip_deploy.model.segclip import QueryRefiner

__all__ = [
    "ConstantFusion",
    "FoldedFusion",
    "FoldedRefiner",
    "arrays_of",
    "cosine_map",
    "register_constants",
]

_EPS = 1e-6  # of unit(), below which a vector counts as this long


def arrays_of(state: Mapping[str, Tensor]) -> dict[str, Array]:
    """A state dict in NumPy and float64."""
    return {name: tensor.detach().cpu().double().numpy() for name, tensor in state.items()}


def register_constants(module: nn.Module, constants: Mapping[str, Array]) -> None:
    """Give a module buffers, in float64."""
    for name, array in constants.items():
        module.register_buffer(name, torch.tensor(array))


class FoldedFusion(Lowered):
    """A CFF level with the text inside; the same function as ``CrossModalFusion`` with that text.

    Args:
        level: the trained level.
        constants: what ``algebra.fold_fusion`` makes of it and T.
    """

    reads: Tensor
    score_bias: Tensor
    mix: Tensor
    mix_bias: Tensor
    answer: Tensor
    answer_bias: Tensor
    same_head: Tensor

    def __init__(self, level: CrossModalFusion, constants: Mapping[str, Array]) -> None:
        super().__init__()
        self.eps = level.norm_vision.eps
        self.heads = level.language_to_vision.heads
        self.rows = len(constants["score_bias"])  # K·h
        self.bounded = is_bounded(constants)
        pooling = pool_fusion(Weights(arrays_of(level.state_dict())), self.heads)
        register_constants(self, {**constants, **pooling})
        same_head = torch.eye(self.heads).double().repeat(2 * (self.rows // self.heads,))
        self.register_buffer("same_head", same_head[..., None, None])

    def forward(self, vision: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``CrossModalFusion.forward``, with the text that is in here."""
        # One convolution reads the pixels: scores of both directions, and the mean for 1/σ.
        read = F.conv2d(vision, self.reads)
        guide, ask, mean = read.split((self.rows, self.rows, 1), dim=1)
        power = self.operators.square_sum(vision) / vision.shape[1]
        # Rounding may leave a variance below zero where all channels are alike.
        shrink = ((power - mean * mean).clamp(min=0) + self.eps).rsqrt()  # 1/σ

        guide = self.operators.softmax_over_classes(
            guide * shrink + self.score_bias, self.heads, self.same_head, bounded=self.bounded
        )
        fused = vision + F.conv2d(guide, self.mix, self.mix_bias)

        looks = (ask * shrink).flatten(2).softmax(-1) * shrink.flatten(2)
        pooled = self.operators.pool(looks, vision)
        pooled = pooled.unflatten(1, (-1, self.heads)).flatten(2)
        update = pooled @ self.answer + self.answer_bias

        queries = scale * unit(text + update)
        return fused, update, cosine_map(queries, fused, self.operators)


class ConstantFusion(nn.Module):
    """A CFF level where folding does not pay: what text alone gives is constant, pixels are projected.

    Args:
        level: the trained level.
        constants: what ``algebra.plain_fusion`` makes of it and T.
    """

    keys: Tensor
    values: Tensor
    queries: Tensor

    def __init__(self, level: CrossModalFusion, constants: Mapping[str, Array]) -> None:
        super().__init__()
        self.level = level
        register_constants(self, constants)

    def forward(self, vision: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``CrossModalFusion.forward``, with the text that is in here."""
        return self.level.fuse(vision, text, scale, self.keys, self.values, self.queries)


def cosine_map(queries: Tensor, pixels: Tensor, operators: Operators) -> Tensor:
    """Scaled cosines of unit queries (B, K, C), times τ, with pixels (B, C, h, w) → (B, K, h, w).

    Dividing K products per pixel by its length costs less than dividing its C channels.
    """
    length = operators.square_sum(pixels).sqrt().clamp(min=_EPS)
    return operators.products(queries, pixels) / length


class FoldedRefiner(nn.Module):
    """The query refiner with T and R inside.

    Args:
        refiner: trained.
        constants: what ``algebra.fold_refiner``, or ``plain_refiner``, makes of it, T and R.
    """

    prototypes: Tensor
    score: Tensor
    score_bias: Tensor
    mix: Tensor
    keys: Tensor
    values: Tensor

    def __init__(self, refiner: QueryRefiner, constants: Mapping[str, Array]) -> None:
        super().__init__()
        self.folded = "mix" in constants
        self.attention = refiner.attention
        register_constants(self, constants)

    def forward(self, queries: Tensor) -> Tensor:
        """(B, K, C) → (B, K, C)."""
        logits = unit(queries) @ self.prototypes
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1, keepdim=True)
        gate = entropy / math.log(self.prototypes.shape[1])
        return queries + gate * (self._folded(queries) if self.folded else self._plain(queries))

    def _folded(self, queries: Tensor) -> Tensor:
        scores = queries @ self.score + self.score_bias
        weights = scores.unflatten(-1, (-1, self.attention.heads)).softmax(-2).flatten(-2)
        return weights @ self.mix + self.attention.out.bias

    def _plain(self, queries: Tensor) -> Tensor:
        return self.attention.attend(self.attention.queries(queries), self.keys, self.values)
