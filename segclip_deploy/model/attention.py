"""Multi-head attention, written out: between two sequences, so that it can be folded; of few heads, so that it can be pruned."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CrossAttention", "PrunedAttention"]


class CrossAttention(nn.Module):
    """softmax(q kᵀ / √d) v per head (Vaswani et al., 2017), with separate projections.

    Args:
        width: C of queries, keys, values and output.
        heads: divides ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """Queries (B, N, C) look at context (B, M, C) → (B, N, C)."""
        return self.attend(self.queries(queries), self.keys(context), self.values(context))

    def queries(self, x: Tensor) -> Tensor:
        """(B, N, C) → (B, heads, N, C / heads), scaled."""
        # The scale goes into Q before the product: half precision overflows later that way.
        return self._split(self.query(x)) * (x.shape[-1] // self.heads) ** -0.5

    def keys(self, x: Tensor) -> Tensor:
        """(B, M, C) → (B, heads, C / heads, M)."""
        return self._split(self.key(x)).transpose(-2, -1)

    def values(self, x: Tensor) -> Tensor:
        """(B, M, C) → (B, heads, M, C / heads)."""
        return self._split(self.value(x))

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What ``queries``, ``keys`` and ``values`` give, any of which may be constant → (B, N, C)."""
        weights = (queries @ keys).softmax(-1)
        return self.out((weights @ values).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, C) → (B, heads, N, C / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class PrunedAttention(nn.Module):
    """Self-attention whose heads together are narrower than the sequence they read.

    It stands where an ``nn.MultiheadAttention`` with all heads stood, with the same names of tensors;
    that class can only have heads that add up to its width.

    Args:
        width: E of the sequence.
        heads: that are left.
        head_width: of each.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * heads * head_width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * heads * head_width))
        self.out_proj = nn.Linear(heads * head_width, width)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """(B, N, E) looks at itself → (B, N, E), as ``nn.MultiheadAttention`` with the batch first."""
        del key, value, need_weights, attn_mask  # a ViT gives the same three times, and no mask
        seen = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        queries, keys, values = seen.unflatten(-1, (3, self.heads, -1)).unbind(-3)
        parts = (part.transpose(1, 2) for part in (queries, keys, values))
        mixed = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        return self.out_proj(mixed), None
