"""Multi-head attention between two sequences, written out so that it can be folded."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["CrossAttention"]


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
