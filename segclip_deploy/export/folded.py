"""Blocks of the network with the text inside; the constants, and why they are right: ``algebra``."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segclip_deploy.export.algebra import Array, Weights, is_bounded, pool_fusion
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


class FoldedFusion(nn.Module):
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
    head_sum: Tensor

    def __init__(self, level: CrossModalFusion, constants: Mapping[str, Array]) -> None:
        super().__init__()
        self.eps = level.norm_vision.eps
        self.heads = level.language_to_vision.heads
        self.rows = len(constants["score_bias"])  # K·h
        self.bounded = is_bounded(constants)
        pooling = pool_fusion(Weights(arrays_of(level.state_dict())), self.heads)
        register_constants(self, {**constants, **pooling})
        same_head = torch.eye(self.heads).double().repeat(2 * (self.rows // self.heads,))
        self.register_buffer("head_sum", same_head[..., None, None])

    def forward(self, vision: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``CrossModalFusion.forward``, with the text that is in here."""
        # One convolution reads the pixels: scores of both directions, and the mean for 1/σ.
        read = F.conv2d(vision, self.reads)
        guide, ask, mean = read.split((self.rows, self.rows, 1), dim=1)
        power = channel_sum(vision.square()) / vision.shape[1]
        # Rounding may leave a variance below zero where all channels are alike.
        shrink = ((power - mean.square()).clamp(min=0) + self.eps).rsqrt()  # 1/σ

        guide = self._softmax_over_classes(guide * shrink + self.score_bias)
        fused = vision + F.conv2d(guide, self.mix, self.mix_bias)

        looks = (ask * shrink).flatten(2).softmax(-1) * shrink.flatten(2)
        pooled = looks @ vision.flatten(2).transpose(1, 2)
        pooled = pooled.unflatten(1, (-1, self.heads)).flatten(2)
        update = pooled @ self.answer + self.answer_bias

        queries = scale * unit(text + update)
        return fused, update, cosine_map(queries, fused)

    def _softmax_over_classes(self, scores: Tensor) -> Tensor:
        """Softmax over K, for each head, of (B, K·h, h, w)."""
        if self.bounded:
            # CPU engines transpose for a softmax over channels; a convolution sums them in place.
            exponents = scores.exp()
            return exponents / F.conv2d(exponents, self.head_sum)
        by_class = scores.unflatten(1, (-1, self.heads))
        return by_class.softmax(1).flatten(1, 2)


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


def channel_sum(x: Tensor) -> Tensor:
    """Sum over channels (B, C, h, w) → (B, 1, h, w), as a convolution: in place in any layout."""
    return F.conv2d(x, x.new_ones(1, x.shape[1], 1, 1))


def cosine_map(queries: Tensor, pixels: Tensor) -> Tensor:
    """Scaled cosines of unit queries (B, K, C), times τ, with pixels (B, C, h, w) → (B, K, h, w).

    Dividing K products per pixel by its length costs less than dividing its C channels.
    """
    length = channel_sum(pixels.square()).sqrt().clamp(min=_EPS)
    batch, _, height, width = pixels.shape
    last = pixels.permute(0, 2, 3, 1).reshape(batch, height * width, -1)
    products = (last @ queries.transpose(1, 2)).reshape(batch, height, width, -1)
    return products.permute(0, 3, 1, 2) / length


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
