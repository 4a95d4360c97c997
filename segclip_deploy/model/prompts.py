"""Where class embeddings come from during training: fixed, or with learnable context (CoOp)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segclip_deploy.artifacts.vocabulary import Vocabulary
from segclip_deploy.errors import BadInput
from segclip_deploy.model.cff import unit
from segclip_deploy.model.text import TextBank, Tokenizer

__all__ = ["ContextPrompts", "FixedText"]


class FixedText(nn.Module):
    """Class embeddings that do not change."""

    classes: Tensor

    def __init__(self, bank: TextBank) -> None:
        super().__init__()
        self.register_buffer("classes", torch.from_numpy(bank.classes), persistent=False)

    def forward(self) -> Tensor:
        """Unit class embeddings (K, D_t)."""
        return self.classes


class ContextPrompts(nn.Module):
    """``[start] v₁ … v_n class words [end]`` through a frozen CLIP text tower (Zhou et al., IJCV 2022).

    The context vectors v are the only parameters, shared by all classes. After training
    the embeddings end in a TextBank like any other; nothing of this module flies.

    Args:
        clip: an open_clip model with a causal transformer text tower.
        tokenizer: its tokenizer.
        vocabulary: the first description of each class gives its words.
        context: n, how many vectors.

    Raises:
        BadInput: the class words and the context do not fit the text tower's length.
    """

    def __init__(
        self, clip: Any, tokenizer: Tokenizer, vocabulary: Vocabulary, context: int
    ) -> None:
        super().__init__()
        if not hasattr(clip, "token_embedding"):
            raise BadInput("learnable context needs a plain CLIP text tower")
        # "X" holds a place for each context vector, which replaces its embedding.
        words = [entry.descriptions[0] for entry in vocabulary.classes]
        tokens = tokenizer([" ".join(["X"] * context + [word]) for word in words])
        if (tokens[:, -1] != 0).any():
            raise BadInput(f"{context} context tokens leave no room for the class words")
        clip.eval().requires_grad_(False)

        def read(vectors: Tensor) -> Tensor:
            clip.to(vectors.device)  # which a module that is no part of this one does not follow
            x = clip.token_embedding(tokens.to(vectors.device))
            inserted = vectors.expand(len(x), -1, -1)
            x = torch.cat((x[:, :1], inserted, x[:, 1 + context :]), dim=1)
            x = clip.transformer(x + clip.positional_embedding, attn_mask=clip.attn_mask)
            # The end token has the highest id; CLIP reads the sentence there.
            last = clip.ln_final(x)[
                torch.arange(len(x), device=x.device), tokens.argmax(-1).to(x.device)
            ]
            return unit(last @ clip.text_projection)

        # In a closure the tower is no part of this module: neither averaged, nor copied, nor saved.
        self._read = read
        self.context = nn.Parameter(0.02 * torch.randn(context, clip.token_embedding.embedding_dim))

    def forward(self) -> Tensor:
        """Unit class embeddings (K, D_t)."""
        return self._read(self.context)
