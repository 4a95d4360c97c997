"""The algebra of text folding, in NumPy and float64: weights and text in, constants out.

``export`` and ``set-texts`` both take their constants from here.

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
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Array",
    "Weights",
    "adapt",
    "fold_context",
    "fold_fusion",
    "fold_pooling",
    "fold_queries",
    "fold_refiner",
    "is_bounded",
    "layer_norm",
    "plain_fusion",
    "plain_refiner",
    "pool_fusion",
]

Array = NDArray[np.float64]

_LENGTH_EPS = 1e-6  # of unit()
_NORM_EPS = 1e-5  # of every LayerNorm that text passes through
_SAFE_EXPONENT = 60.0  # e^±60 and sums of them are normal float32 numbers
_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class Weights:
    """Arrays by dotted name, read as float64; remembers which were read.

    Attributes:
        arrays: by the names of a state dict.
        prefix: put before every name.
        read: full names of what has been read so far, shared with the parts below.
    """

    arrays: Mapping[str, NDArray[Any]]
    prefix: str = ""
    read: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> Array:
        full = self.prefix + name
        array = np.asarray(self.arrays[full], dtype=np.float64)
        self.read.add(full)
        return array

    def at(self, name: str) -> Weights:
        """The part below a name."""
        return replace(self, prefix=f"{self.prefix}{name}.")


def adapt(adapter: Weights, text: Array) -> Array:
    """The text adapter: text (…, D_t) → (…, C)."""
    x = _linear(adapter.at("project"), text)
    hidden = _linear(adapter.at("mlp.1"), layer_norm(adapter.at("mlp.0"), x))
    gelu = hidden * (1 + _erf(hidden / math.sqrt(2))) / 2
    return x + _linear(adapter.at("mlp.3"), gelu)


def fold_context(attention: Weights, heads: int, context: Array) -> tuple[Array, Array, Array]:
    """Fold attention to a constant context (M, C).

    Returns:
        A (M·h, C) and a (M·h): a query q scores the context by ``A q + a``, softmax over M per
        head; B (C, M·h): the output is ``B p`` and the output's bias. Rows run over M, then heads.
    """
    keys = _heads(_linear(attention.at("key"), context), heads) * _scale(context, heads)
    values = _heads(_linear(attention.at("value"), context), heads)  # (M, h, d)
    query = attention["query.weight"].reshape(heads, -1, context.shape[1])  # (h, d, C)
    score = np.einsum("mhd,hdc->mhc", keys, query).reshape(-1, context.shape[1])
    score_bias = np.einsum("mhd,hd->mh", keys, attention["query.bias"].reshape(heads, -1))
    out = _heads(attention["out.weight"], heads)  # (C, h, d)
    mix = np.einsum("chd,mhd->cmh", out, values).reshape(len(out), -1)
    return score, score_bias.ravel(), mix


def fold_queries(attention: Weights, heads: int, queries: Array) -> Array:
    """Fold attention of constant queries (K, C).

    Returns:
        D (K·h, C): a context vector x is scored by ``D x``, softmax over the context.
    """
    asked = _heads(_linear(attention.at("query"), queries), heads) * _scale(queries, heads)
    key = attention["key.weight"].reshape(heads, -1, queries.shape[1])  # (h, d, C)
    return np.einsum("khd,hdc->khc", asked, key).reshape(-1, queries.shape[1])


def fold_pooling(attention: Weights, heads: int) -> tuple[Array, Array]:
    """Fold the two projections after pooling, which depend on no text.

    Returns:
        E (h, C, C) and e (C): with the context pooled to (K, h, C), the output is the sum over
        heads of ``pooled E``, and e.
    """
    out, value = attention["out.weight"], attention["value.weight"]
    project = np.einsum("hdi,chd->hic", value.reshape(heads, -1, len(out)), _heads(out, heads))
    return project, out @ attention["value.bias"] + attention["out.bias"]


def fold_fusion(level: Weights, heads: int, text: Array) -> dict[str, Array]:
    """What a folded CFF level holds of T (K, C).

    Returns:
        ``reads`` (2·K·h + 1, C, 1, 1), one convolution that reads the pixels: scores of both
        directions, and the mean for 1/σ; ``score_bias`` (K·h, 1, 1); ``mix`` (C, K·h, 1, 1).
    """
    norm, words = level.at("norm_vision"), layer_norm(level.at("norm_text"), text)
    score, bias, mix = fold_context(level.at("language_to_vision"), heads, words)
    ask = fold_queries(level.at("vision_to_language"), heads, words)
    bias = bias + score @ norm["bias"]
    score, bias = _without_common(score, heads), _without_common(bias, heads)
    rows = np.concatenate((score, ask)) * norm["weight"]
    centred = rows - rows.mean(1, keepdims=True)
    mean = np.full((1, text.shape[1]), 1 / text.shape[1])
    return {
        "reads": np.concatenate((centred, mean))[..., None, None],
        "score_bias": bias[:, None, None],
        "mix": (level["gamma_vision"][:, None] * mix)[..., None, None],
    }


def pool_fusion(level: Weights, heads: int) -> dict[str, Array]:
    """What a folded CFF level holds besides, the same for every text.

    Returns:
        ``mix_bias`` (C); ``answer`` (h·C, C) and ``answer_bias`` (C) of the pooled values.
    """
    norm, gamma = level.at("norm_vision"), level["gamma_text"]
    project, bias = fold_pooling(level.at("vision_to_language"), heads)
    scaled = norm["weight"][:, None] * project
    centred = scaled - scaled.mean(1, keepdims=True)
    return {
        "mix_bias": level["gamma_vision"] * level["language_to_vision.out.bias"],
        "answer": centred.reshape(-1, len(gamma)) * gamma,
        "answer_bias": (bias + np.einsum("j,hjc->c", norm["bias"], project)) * gamma,
    }


def is_bounded(fusion: Mapping[str, Array]) -> bool:
    """Whether a level's softmax over classes needs no maximum, given ``fold_fusion``'s constants.

    |v̂| ≤ √C bounds the scores.
    """
    bias = np.abs(fusion["score_bias"])
    score = fusion["reads"][: len(bias), :, 0, 0]
    bound = np.linalg.norm(score, axis=1).max() * math.sqrt(score.shape[1]) + bias.max()
    return bool(bound < _SAFE_EXPONENT)


def plain_fusion(level: Weights, heads: int, text: Array) -> dict[str, Array]:
    """What a CFF level that is not folded holds of T (K, C).

    Returns:
        ``keys`` (1, h, d, K) and ``values`` (1, h, K, d) that language guides vision with, and
        ``queries`` (1, h, K, d) that vision answers.
    """
    words = layer_norm(level.at("norm_text"), text)
    asked = _linear(level.at("vision_to_language.query"), words) * _scale(text, heads)
    queries = _heads(asked, heads).swapaxes(0, 1)[None]
    return {**_plain_context(level.at("language_to_vision"), heads, words), "queries": queries}


def fold_refiner(refiner: Weights, heads: int, text: Array, real_texts: Array) -> dict[str, Array]:
    """What the refiner, folded, holds of T (K, C) and R (K·M, C).

    Returns:
        ``prototypes`` (C, K), times τ; ``score`` (C, K·M·h), ``score_bias`` (K·M·h) and ``mix``
        (K·M·h, C), as of ``fold_context``, transposed.
    """
    score, score_bias, mix = fold_context(refiner.at("attention"), heads, real_texts)
    folded = {"score": score.T, "score_bias": score_bias, "mix": mix.T}
    return {"prototypes": _prototypes(refiner, text), **folded}


def plain_refiner(refiner: Weights, heads: int, text: Array, real_texts: Array) -> dict[str, Array]:
    """What the refiner, not folded, holds of T (K, C) and R (K·M, C).

    Returns:
        ``prototypes`` (C, K), times τ; ``keys`` (1, h, d, K·M) and ``values`` (1, h, K·M, d).
    """
    context = _plain_context(refiner.at("attention"), heads, real_texts)
    return {"prototypes": _prototypes(refiner, text), **context}


def layer_norm(norm: Weights, x: Array) -> Array:
    """LayerNorm over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    variance = np.square(centred).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + _NORM_EPS) * norm["weight"] + norm["bias"]


def _plain_context(attention: Weights, heads: int, context: Array) -> dict[str, Array]:
    keys, values = (_heads(_linear(attention.at(x), context), heads) for x in ("key", "value"))
    return {"keys": keys.transpose(1, 2, 0)[None], "values": values.swapaxes(0, 1)[None]}


def _prototypes(refiner: Weights, text: Array) -> Array:
    length = np.linalg.norm(text, axis=1, keepdims=True).clip(min=_LENGTH_EPS)
    return refiner["scale"] * (text / length).T


def _linear(layer: Weights, x: Array) -> Array:
    return x @ layer["weight"].T + layer["bias"]


def _heads(x: Array, heads: int) -> Array:
    """(M, C) → (M, h, d)."""
    return x.reshape(len(x), heads, -1)


def _scale(x: Array, heads: int) -> float:
    return float((x.shape[1] // heads) ** -0.5)


def _without_common(rows: Array, heads: int) -> Array:
    """Take from rows (K·h, …) their mean over K, which softmax does not see: smaller numbers."""
    by_class = rows.reshape(-1, heads, *rows.shape[1:])
    return (by_class - by_class.mean(0)).reshape(rows.shape)
