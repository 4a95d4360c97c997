"""Pixel decoder: a feature pyramid whose levels are fused with language on the way down."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segclip_deploy.model.cff import CrossModalFusion
from segclip_deploy.model.encoders import STRIDES

__all__ = ["PixelDecoder"]


class PixelDecoder(nn.Module):
    """FPN (Lin et al., CVPR 2017) of width C with CFF after each top-down addition.

    Args:
        channels: of the encoder's maps at ``STRIDES``.
        width: C.
        heads: of the attentions.
        classes: K, the score maps each fused level hands to its convolution.
        cff_strides: levels with fusion.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        width: int,
        heads: int,
        classes: int,
        cff_strides: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleDict(
            {str(s): nn.Conv2d(c, width, 1) for s, c in zip(STRIDES, channels, strict=True)}
        )
        self.fusions = nn.ModuleDict(
            {str(s): CrossModalFusion(width, heads) for s in STRIDES if s in cff_strides}
        )
        self.convs = nn.ModuleDict(
            {
                str(s): nn.Sequential(
                    nn.Conv2d(
                        width + (classes if s in cff_strides else 0),
                        width,
                        3,
                        padding=1,
                        bias=False,
                    ),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                )
                for s in STRIDES
            }
        )

    def forward(
        self, features: list[Tensor], text: Tensor, scale: Tensor
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Decode from coarse to fine.

        Args:
            features: encoder maps at ``STRIDES``.
            text: T (K, C).
            scale: τ of the score maps, a scalar.

        Returns:
            The stride-4 map (B, C, H/4, W/4); per fused level, coarse first, what the image
            says about each class (B, K, C); and the score maps (B, K, h, w).
        """
        x: Tensor | None = None
        updates: list[Tensor] = []
        scores: list[Tensor] = []
        for stride, feature in zip(reversed(STRIDES), reversed(features), strict=True):
            level = self.laterals[str(stride)](feature)
            if x is not None:
                level = level + F.interpolate(
                    x, scale_factor=2, mode="bilinear", align_corners=False
                )
            if str(stride) in self.fusions:
                level, update, score = self.fusions[str(stride)](level, text, scale)
                updates.append(update)
                scores.append(score)
                level = torch.cat((level, score), dim=1)
            x = self.convs[str(stride)](level)
        assert x is not None
        return x, updates, scores
