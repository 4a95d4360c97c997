"""Text folding: with the text constant, attention to it becomes two 1×1 convolutions.

Language guides vision. Per head, ``softmax((W_q v̂ + b_q) · k / √d)`` over K constant keys is a
softmax over the rows of ``A v̂ + a``, with ``A = Kᵀ W_q / √d`` (h·K, C), and ``W_o V p`` is
``B p`` with ``B = W_o V`` (C, h·K): no projection of the pixels is left.

Vision answers language. The queries are constant, so the scores are again ``D v̂`` with
``D = Q W_k / √d`` (h·K, C); the key bias adds the same to every pixel and drops out of the
softmax. Values are pooled before they are projected: ``W_v (V̂ᵀ p)`` projects K·h vectors, not N.

LayerNorm, ``v̂ = g ⊙ (v − μ)/σ + β``, folds too: g and the centring go into A, D and the
projection of the pooled values, β into their biases; 1/σ, one number per pixel, scales what
comes out. The algebra is exact; tests hold it to 1e-9 in float64.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segclip_deploy.model.attention import CrossAttention
from segclip_deploy.model.cff import CrossModalFusion, unit
from segclip_deploy.model.segclip import QueryRefiner

__all__ = ["FoldedFusion", "FoldedRefiner", "cosine_map", "fold_context", "fold_queries"]

_EPS = 1e-6  # of unit(), below which a vector counts as this long
_SAFE_EXPONENT = 60.0  # e^±60 and sums of them are normal float32 numbers


def fold_context(
    attention: CrossAttention, context: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fold attention to a constant context (M, C).

    Returns:
        A (M·h, C) and a (M·h): a query q scores the context by ``A q + a``, softmax over M per
        head; B (C, M·h) and b (C): the output is ``B p + b``. Rows run over M, then heads.
    """
    heads = attention.heads
    scale = (context.shape[-1] // heads) ** -0.5
    keys = attention.key(context).unflatten(-1, (heads, -1)) * scale  # (M, h, d)
    values = attention.value(context).unflatten(-1, (heads, -1))
    query = attention.query.weight.unflatten(0, (heads, -1))  # (h, d, C)
    score = torch.einsum("mhd,hdc->mhc", keys, query).flatten(0, 1)
    score_bias = torch.einsum("mhd,hd->mh", keys, attention.query.bias.unflatten(0, (heads, -1)))
    out = attention.out.weight.unflatten(1, (heads, -1))  # (C, h, d)
    mix = torch.einsum("chd,mhd->cmh", out, values).flatten(1)
    return score, score_bias.flatten(), mix, attention.out.bias


def fold_queries(attention: CrossAttention, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fold attention of constant queries (K, C).

    Returns:
        D (K·h, C): a context vector x is scored by ``D x``, softmax over the context; E (h·C, C)
        and e (C): with the context pooled to (K, h, C), the output is ``pooled E + e``.
    """
    heads = attention.heads
    asked = (
        attention.query(queries).unflatten(-1, (heads, -1)) * (queries.shape[-1] // heads) ** -0.5
    )
    key = attention.key.weight.unflatten(0, (heads, -1))  # (h, d, C)
    score = torch.einsum("khd,hdc->khc", asked, key).flatten(0, 1)
    value = attention.value.weight.unflatten(0, (heads, -1))
    out = attention.out.weight.unflatten(1, (heads, -1))
    project = torch.einsum("hdi,chd->hic", value, out).flatten(0, 1)
    bias = attention.out.weight @ attention.value.bias + attention.out.bias
    return score, project, bias


class FoldedFusion(nn.Module):
    """A CFF level with the text inside; the same function as ``CrossModalFusion`` with that text.

    Args:
        level: the trained level.
        text: T (K, C).
        scale: τ of the score maps.
    """

    reads: Tensor
    score_bias: Tensor
    head_sum: Tensor
    mix: Tensor
    mix_bias: Tensor
    answer: Tensor
    answer_bias: Tensor
    text: Tensor
    scale: Tensor

    def __init__(self, level: CrossModalFusion, text: Tensor, scale: Tensor) -> None:
        super().__init__()
        norm, words = level.norm_vision, level.norm_text(text)
        self.eps = norm.eps
        self.heads = heads = level.language_to_vision.heads
        score, score_bias, mix, mix_bias = fold_context(level.language_to_vision, words)
        ask, project, project_bias = fold_queries(level.vision_to_language, words)
        score_bias = score_bias + score @ norm.bias
        score, score_bias = _without_common(score, heads), _without_common(score_bias, heads)
        classes, width = text.shape
        centre = torch.eye(width, dtype=text.dtype) - 1 / width
        mean = torch.full((1, width), 1 / width, dtype=text.dtype)
        score, ask = score * norm.weight @ centre, ask * norm.weight @ centre
        # |v̂| ≤ √C bounds the scores, and so says whether exp() can do without a maximum.
        bound = score.norm(dim=1).max() * math.sqrt(width) + score_bias.abs().max()
        self.bounded = bool(bound < _SAFE_EXPONENT)
        by_head = project.unflatten(0, (heads, width))
        centred = torch.einsum("ij,hjc->hic", centre * norm.weight, by_head)
        answer_bias = project_bias + torch.einsum("j,hjc->c", norm.bias, by_head)
        constants = {
            # One convolution reads the pixels: scores of both directions, and the mean for 1/σ.
            "reads": torch.cat((score, ask, mean))[..., None, None],
            "score_bias": score_bias[:, None, None],
            "head_sum": torch.eye(heads, dtype=text.dtype).repeat(classes, classes)[
                ..., None, None
            ],
            "mix": (level.gamma_vision[:, None] * mix)[..., None, None],
            "mix_bias": level.gamma_vision * mix_bias,
            "answer": centred.flatten(0, 1) * level.gamma_text,
            "answer_bias": answer_bias * level.gamma_text,
            "text": text,
            "scale": scale,
        }
        for name, value in constants.items():
            self.register_buffer(name, value)

    def forward(self, vision: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``CrossModalFusion.forward``, whose text and scale are already in here."""
        classes = self.text.shape[0]
        rows = classes * self.heads
        read = F.conv2d(vision, self.reads)
        guide, ask, mean = read.split((rows, rows, 1), dim=1)
        power = channel_sum(vision.square()) / vision.shape[1]
        # Rounding may leave a variance below zero where all channels are alike.
        shrink = ((power - mean.square()).clamp(min=0) + self.eps).rsqrt()  # 1/σ

        guide = self._softmax_over_classes(guide * shrink + self.score_bias)
        fused = vision + F.conv2d(guide, self.mix, self.mix_bias)

        looks = (ask * shrink).flatten(2).softmax(-1) * shrink.flatten(2)
        pooled = looks @ vision.flatten(2).transpose(1, 2)
        pooled = pooled.unflatten(1, (classes, self.heads)).flatten(2)
        update = pooled @ self.answer + self.answer_bias

        queries = self.scale * unit(self.text + update)
        return fused, update, cosine_map(queries, fused)

    def _softmax_over_classes(self, scores: Tensor) -> Tensor:
        """Softmax over K, for each head, of (B, K·h, h, w)."""
        if self.bounded:
            # CPU engines transpose for a softmax over channels; a convolution sums them in place.
            exponents = scores.exp()
            return exponents / F.conv2d(exponents, self.head_sum)
        by_class = scores.unflatten(1, (-1, self.heads))
        return by_class.softmax(1).flatten(1, 2)


def channel_sum(x: Tensor) -> Tensor:
    """Sum over channels (B, C, h, w) → (B, 1, h, w), as a convolution: in place in any layout."""
    return F.conv2d(x, x.new_ones(1, x.shape[1], 1, 1))


def cosine_map(queries: Tensor, pixels: Tensor) -> Tensor:
    """Scaled cosines of unit queries (B, K, C), times τ, with pixels (B, C, h, w) → (B, K, h, w).

    Dividing K products per pixel by its length costs less than dividing its C channels.
    """
    length = channel_sum(pixels.square()).sqrt().clamp(min=_EPS)
    return (queries @ pixels.flatten(2)).unflatten(2, pixels.shape[-2:]) / length


def _without_common(rows: Tensor, heads: int) -> Tensor:
    """Take from rows (K·h, …) their mean over K, which softmax does not see: smaller numbers."""
    by_class = rows.unflatten(0, (-1, heads))
    return (by_class - by_class.mean(0, keepdim=True)).flatten(0, 1)


class FoldedRefiner(nn.Module):
    """The query refiner with T and R inside.

    Args:
        refiner: trained.
        text: T (K, C).
        real_texts: R (K·M, C).
        folded: fold the attention too, not only the prototypes.
    """

    prototypes: Tensor
    score: Tensor
    score_bias: Tensor
    mix: Tensor
    mix_bias: Tensor
    real_texts: Tensor

    def __init__(
        self, refiner: QueryRefiner, text: Tensor, real_texts: Tensor, *, folded: bool
    ) -> None:
        super().__init__()
        self.heads = refiner.attention.heads
        self.count = len(real_texts)
        self.folded = folded
        self.register_buffer("prototypes", refiner.scale() * unit(text).T)
        if self.folded:
            names = ("score", "score_bias", "mix", "mix_bias")
            constants = fold_context(refiner.attention, real_texts)
            for name, value in zip(names, constants, strict=True):
                self.register_buffer(name, value)
        else:
            self.attention = refiner.attention
            self.register_buffer("real_texts", real_texts)

    def forward(self, queries: Tensor) -> Tensor:
        """(B, K, C) → (B, K, C)."""
        logits = unit(queries) @ self.prototypes
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1, keepdim=True)
        gate = entropy / math.log(self.prototypes.shape[1])
        if not self.folded:
            return queries + gate * self.attention(queries, self.real_texts[None])
        scores = (queries @ self.score.T + self.score_bias).unflatten(-1, (self.count, self.heads))
        seen = scores.softmax(-2).flatten(-2) @ self.mix.T + self.mix_bias
        return queries + gate * seen
