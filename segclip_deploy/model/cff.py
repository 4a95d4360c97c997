"""Cross-Modal Feature Fusion: language guides vision, and vision answers language."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segclip_deploy.model.attention import CrossAttention

__all__ = ["CrossModalFusion", "unit"]


def unit(x: Tensor) -> Tensor:
    """Scale the last axis to Euclidean length 1."""
    return F.normalize(x, dim=-1, eps=1e-6)


class CrossModalFusion(nn.Module):
    """One level of CFF.

    With V the visual tokens (N, C) and V̂ = LN V, read by both directions:

    V' = V + γ_v ⊙ MHA(q = V̂, kv = LN T)     language guides vision
    T_l = γ_t ⊙ MHA(q = LN T, kv = V̂)        what this image says about each class
    S  = τ · cos(V', T + T_l)                 score map
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_vision = nn.LayerNorm(width, eps=1e-5)
        self.norm_text = nn.LayerNorm(width, eps=1e-5)
        self.language_to_vision = CrossAttention(width, heads)
        self.vision_to_language = CrossAttention(width, heads)
        self.gamma_vision = nn.Parameter(torch.full((width,), 0.1))
        self.gamma_text = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, vision: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fuse vision (B, C, h, w) with T (K, C).

        Returns:
            V' (B, C, h, w), T_l (B, K, C), S (B, K, h, w).
        """
        size = vision.shape[-2:]
        tokens = vision.flatten(2).transpose(1, 2)
        seen = self.norm_vision(tokens)
        words = self.norm_text(text)[None]
        tokens = tokens + self.gamma_vision * self.language_to_vision(seen, words)
        update = self.gamma_text * self.vision_to_language(words, seen)
        score = scale * unit(text + update) @ unit(tokens).transpose(1, 2)
        fused = tokens.transpose(1, 2).unflatten(2, size)
        return fused, update, score.unflatten(2, size)
