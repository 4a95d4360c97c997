"""SegCLIP: an honest re-implementation of what the paper describes; its code is not public."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.model.attention import CrossAttention
from segclip_deploy.model.cff import unit
from segclip_deploy.model.channels import set_channels
from segclip_deploy.model.encoders import build_encoder
from segclip_deploy.model.pixel_decoder import PixelDecoder

__all__ = ["QueryRefiner", "SegCLIP", "SegOutput", "TextAdapter"]

MAX_SCALE = 100.0


class Scale(nn.Module):
    """A learned temperature τ, kept positive by its logarithm and clamped to 100 as in CLIP."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> Tensor:
        return self.log.exp().clamp(max=MAX_SCALE)


class TextAdapter(nn.Module):
    """Residual MLP from the text width D_t to the working width C."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(text_width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, text: Tensor) -> Tensor:
        """(..., D_t) → (..., C)."""
        x = self.project(text)
        return x + self.mlp(x)


class QueryRefiner(nn.Module):
    """Ambiguous class queries look at the real texts; clear ones are left alone.

    Ambiguity a_k = entropy(softmax(τ · cos(Q_k, T))) / ln K, in 0–1, and
    Q ← Q + a ⊙ MHA(q = Q, kv = R).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.scale = Scale(10.0)
        self.attention = CrossAttention(width, heads)

    def ambiguity(self, queries: Tensor, text: Tensor) -> Tensor:
        """Queries (B, K, C) against T (K, C) → (B, K), 0 clear, 1 undecided between all."""
        logits = self.scale() * unit(queries) @ unit(text).T
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
        return entropy / math.log(text.shape[0])

    def forward(self, queries: Tensor, text: Tensor, real_texts: Tensor) -> Tensor:
        """Queries (B, K, C), T (K, C), R (K·M, C) → (B, K, C)."""
        context = real_texts.expand(queries.shape[0], -1, -1)
        gate = self.ambiguity(queries, text).unsqueeze(-1)
        return queries + gate * self.attention(queries, context)


@dataclass(frozen=True)
class SegOutput:
    """What the network says of images (B, 3, H, W).

    Attributes:
        logits: (B, K, H/4, W/4).
        scores: score maps (B, K, h, w) of the CFF levels, coarse first.
        features: of the encoder (B, C, h, w), fine first.
    """

    logits: Tensor
    scores: tuple[Tensor, ...]
    features: tuple[Tensor, ...]


class SegCLIP(nn.Module):
    """The whole network; the text embeddings are arguments, so that they can be folded away."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.adapter = TextAdapter(spec.text_width, spec.width)
        self.encoder = build_encoder(spec.encoder)
        self.decoder = PixelDecoder(
            self.encoder.channels, spec.width, spec.heads, spec.classes, spec.cff_strides
        )
        self.refiner = QueryRefiner(spec.width, spec.heads) if spec.refine else None
        self.score_scale = Scale(10.0)
        self.head_scale = Scale(10.0)
        set_channels(self, spec.channels)

    def forward(self, image: Tensor, classes: Tensor, texts: Tensor) -> Tensor:
        """Normalised image (B, 3, H, W), classes (K, D_t), texts (K, M, D_t) → logits (B, K, H/4, W/4)."""
        return self.decode(image, classes, texts).logits

    def decode(self, image: Tensor, classes: Tensor, texts: Tensor) -> SegOutput:
        """As ``forward``, with what the losses of training compare besides."""
        text = self.adapter(classes)
        features = self.encoder(image)
        pixels, updates, scores = self.decoder(features, text, self.score_scale())
        queries = text.expand(image.shape[0], -1, -1)
        for update in updates:
            queries = queries + update
        if self.refiner is not None:
            queries = self.refiner(queries, text, self.adapter(texts.flatten(0, 1)))
        embeddings = F.normalize(pixels, dim=1, eps=1e-6)
        logits = self.head_scale() * unit(queries) @ embeddings.flatten(2)
        logits = logits.unflatten(2, pixels.shape[-2:])
        return SegOutput(logits, tuple(scores), tuple(features))
