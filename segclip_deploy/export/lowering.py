"""Two ways to write what folding leaves to compute: for engines on CPUs, and for NVIDIA's.

Both give the same numbers, to rounding (tests/export/test_lowering.py). They differ in what an engine
fuses, and in what it therefore moves through memory:

* CPU engines transpose for a reduction over channels; a convolution with ones sums them in place.
  TensorRT fuses a reduction with the squares or exponentials before it, and a convolution with nothing.
* TensorRT has a Softmax, which needs no exponentials in FP32. On a CPU it is a transpose again.
* CPU engines multiply matrices fastest with the channels last. On a GPU the score map is one product
  with the pixels as they lie.
* A product over all pixels of a map is one tile for a GPU, so one multiprocessor works. It is taken row
  by row of the map, and the rows are summed.
* Squares are products: TensorRT computes Pow by a logarithm (NVIDIA/TensorRT#4465).
* Labels from convolved phases move sixteen cells a class through transposes. TensorRT enlarges the
  logits, and takes the best.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segclip_deploy.artifacts.scheme import Lowering
from segclip_deploy.runtime.inference.windows import LOGIT_STRIDE

__all__ = ["Lowered", "Operators", "enlarged_argmax", "lower"]


class Operators(Protocol):
    """What a lowering decides. Maps are (B, C, h, w), and a score of class k and head j is channel k·h + j."""

    def square_sum(self, x: Tensor) -> Tensor:
        """Σ x² over channels: (B, C, h, w) → (B, 1, h, w)."""

    def softmax_over_classes(
        self, scores: Tensor, heads: int, same_head: Tensor, *, bounded: bool
    ) -> Tensor:
        """Softmax over K, for each head, of (B, K·h, h, w).

        Args:
            heads: h.
            same_head: (K·h, K·h, 1, 1), 1 where two scores are of one head.
            bounded: no score is so large that its exponential is no float32.
        """

    def products(self, queries: Tensor, pixels: Tensor) -> Tensor:
        """Products of queries (B, K, C) with every pixel (B, C, h, w) → (B, K, h, w)."""

    def pool(self, weights: Tensor, pixels: Tensor) -> Tensor:
        """Sums of pixels (B, C, h, w) by weights (B, R, h·w) → (B, R, C)."""

    def label(self, logits: Tensor) -> Tensor:
        """The best class at full size: logits (B, K, h, w) → (B, 4h, 4w), float."""


def enlarged_argmax(logits: Tensor) -> Tensor:
    """Logits (B, K, h, w) → labels (B, 4h, 4w), float: upsample, then take the best."""
    full = F.interpolate(logits, scale_factor=LOGIT_STRIDE, mode="bilinear", align_corners=False)
    return full.argmax(1).float()


class _Cpu:
    """For OpenVINO and ONNX Runtime."""

    def square_sum(self, x: Tensor) -> Tensor:
        return F.conv2d(x.square(), x.new_ones(1, x.shape[1], 1, 1))

    def softmax_over_classes(
        self, scores: Tensor, heads: int, same_head: Tensor, *, bounded: bool
    ) -> Tensor:
        if not bounded:
            return _softmax_over_classes(scores, heads)
        exponents = scores.exp()
        return exponents / F.conv2d(exponents, same_head)

    def products(self, queries: Tensor, pixels: Tensor) -> Tensor:
        batch, _, height, width = pixels.shape
        last = pixels.permute(0, 2, 3, 1).reshape(batch, height * width, -1)
        made = (last @ queries.transpose(1, 2)).reshape(batch, height, width, -1)
        return made.permute(0, 3, 1, 2)

    def pool(self, weights: Tensor, pixels: Tensor) -> Tensor:
        return weights @ pixels.flatten(2).transpose(1, 2)

    def label(self, logits: Tensor) -> Tensor:
        """Upsampling by 4 is a 3 × 3 convolution that makes the 16 pixels of each cell as channels.

        The best class is found there, and only labels are spread out, not the scores of K classes.
        """
        batch, classes, height, width = logits.shape
        padded = F.pad(logits, (1, 1, 1, 1), mode="replicate")
        scores = F.conv2d(padded, _PHASES.repeat(classes, 1, 1, 1), groups=classes)
        last = scores.permute(0, 2, 3, 1).reshape(batch, height * width, classes, -1)
        best = last.argmax(2).float().reshape(batch, height, width, LOGIT_STRIDE, LOGIT_STRIDE)
        return best.transpose(2, 3).reshape(batch, height * LOGIT_STRIDE, -1)


class _Nvidia:
    """For TensorRT and TensorRT-RTX."""

    def square_sum(self, x: Tensor) -> Tensor:
        return (x * x).sum(1, keepdim=True)

    def softmax_over_classes(
        self, scores: Tensor, heads: int, same_head: Tensor, *, bounded: bool
    ) -> Tensor:
        del same_head, bounded
        return _softmax_over_classes(scores, heads)

    def products(self, queries: Tensor, pixels: Tensor) -> Tensor:
        return (queries @ pixels.flatten(2)).unflatten(2, pixels.shape[-2:])

    def pool(self, weights: Tensor, pixels: Tensor) -> Tensor:
        by_row = weights.unflatten(2, pixels.shape[-2:]).transpose(1, 2)  # (B, h, R, w)
        return (by_row @ pixels.permute(0, 2, 3, 1)).sum(1)

    def label(self, logits: Tensor) -> Tensor:
        return enlarged_argmax(logits)


class Lowered(nn.Module):
    """A module that leaves to a lowering how it computes.

    Attributes:
        operators: chosen by ``lower``; for CPUs where nobody chose.
    """

    operators: Operators = _Cpu()


def lower(graph: nn.Module, lowering: Lowering) -> None:
    """Choose in place how all that is ``Lowered`` in a graph is computed, and exported."""
    for module in graph.modules():
        if isinstance(module, Lowered):
            module.operators = _Cpu() if lowering is Lowering.CPU else _Nvidia()


def _softmax_over_classes(scores: Tensor, heads: int) -> Tensor:
    return scores.unflatten(1, (-1, heads)).softmax(1).flatten(1, 2)


def _phase_weights() -> Tensor:
    """What each of the pixels of a logit cell takes from the cell and its neighbours, (16, 1, 3, 3).

    Bilinear interpolation, half-pixel: pixel p of 4 lies (p + ½) / 4 − ½ cells from the cell's
    centre, and takes from each cell 1 less its distance. All are multiples of 1/64, exact in BF16.
    """
    place = (torch.arange(LOGIT_STRIDE) + 0.5) / LOGIT_STRIDE - 0.5
    distance = place[:, None] - torch.arange(-1.0, 2.0)
    along = (1 - distance.abs()).clamp(min=0)  # (4 pixels, 3 cells)
    return torch.einsum("yi,xj->yxij", along, along).reshape(-1, 1, 3, 3)


_PHASES = _phase_weights()
