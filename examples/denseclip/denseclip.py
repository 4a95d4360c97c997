"""A small DenseCLIP-like network: your own model, through segclip-deploy (docs/how-to/own-network.md).

Pixel-text score maps are concatenated to the features (after Rao et al., CVPR 2022), and a
convolution decides. The text is needed for the score maps only, so it folds into one 1×1
convolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segclip_deploy.artifacts.model_spec import ModelSpec
from segclip_deploy.model.encoders import build_encoder
from segclip_deploy.model.text import TextBank


class DenseClip(nn.Module):
    """Normalised image (B, 3, H, W), classes (K, D), texts (K, M, D) → logits (B, K, H/4, W/4)."""

    def __init__(self, spec: ModelSpec) -> None:
        """Build with random weights."""
        super().__init__()
        self.encoder = build_encoder(spec.encoder)
        self.laterals = nn.ModuleList(nn.Conv2d(c, spec.width, 1) for c in self.encoder.channels)
        self.text = nn.Linear(spec.text_width, spec.width)
        self.head = nn.Conv2d(spec.width + spec.classes, spec.classes, 3, padding=1)

    def forward(self, image: Tensor, classes: Tensor, texts: Tensor) -> Tensor:  # noqa: ARG002
        """Score every pixel; this network does not use the real texts."""
        return self.decide(image, F.normalize(self.text(classes), dim=-1))

    def decide(self, image: Tensor, prototypes: Tensor) -> Tensor:
        """Image and unit class prototypes (K, C) → logits."""
        x: Tensor | None = None
        for lateral, feature in zip(
            reversed(self.laterals), reversed(self.encoder(image)), strict=True
        ):
            level = lateral(feature)
            x = level if x is None else level + F.interpolate(x, scale_factor=2, mode="bilinear")
        scores = F.conv2d(F.normalize(x, dim=1), prototypes[..., None, None])
        return self.head(torch.cat((x, scores), dim=1))

    def fold(self, bank: TextBank) -> nn.Module:
        """The same network with the text inside."""
        return Folded(self, F.normalize(self.text(torch.from_numpy(bank.classes)), dim=-1).detach())


class Folded(nn.Module):
    """``DenseClip`` with constant prototypes: image → logits."""

    def __init__(self, network: DenseClip, prototypes: Tensor) -> None:
        """Keep the prototypes (K, C)."""
        super().__init__()
        self.network = network
        self.register_buffer("prototypes", prototypes)

    def forward(self, image: Tensor) -> Tensor:
        """Score every pixel."""
        return self.network.decide(image, self.prototypes)
