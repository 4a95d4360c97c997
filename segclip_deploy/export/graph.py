"""The graph that flies: pre- and post-processing around the network, text as constants."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segclip_deploy.model.text import TextBank
from segclip_deploy.runtime.windows import LOGIT_STRIDE

__all__ = ["ConstantText", "DeployGraph", "normalise"]


def normalise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 RGB (B, H, W, 3) → normalised (B, 3, H, W), float32.

    Cast first, then transpose: TensorRT has no transpose of uint8.
    """
    offset = 255 * pixels.new_tensor(mean, dtype=torch.float32)
    gain = 1 / (255 * pixels.new_tensor(std, dtype=torch.float32))
    return ((pixels.float() - offset) * gain).permute(0, 3, 1, 2)


class ConstantText(nn.Module):
    """A network with its text embeddings as constants: image → logits.

    Args:
        network: ``forward(image, classes, texts) → logits (B, K, H/4, W/4)``.
        bank: the text.
    """

    classes: Tensor
    texts: Tensor

    def __init__(self, network: nn.Module, bank: TextBank) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("classes", torch.from_numpy(bank.classes))
        self.register_buffer("texts", torch.from_numpy(bank.texts))

    def forward(self, image: Tensor) -> Tensor:
        """Run the network with its text."""
        return self.network(image, self.classes, self.texts)


class DeployGraph(nn.Module):
    """uint8 image (B, H, W, 3) → labels (B, H, W) uint8, and logits where asked for.

    Args:
        network: normalised image (B, 3, H, W) → logits (B, K, H/4, W/4).
        mean, std: normalisation of RGB in 0–1.
        logits: also output the logits, for blending windows.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        logits: bool,
    ) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std, self.logits = mean, std, logits

    @property
    def output_names(self) -> list[str]:
        """Names of what ``forward`` returns, in order."""
        return ["labels", "logits"] if self.logits else ["labels"]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Run the network with its pre- and post-processing."""
        logits = self.network(normalise(image, self.mean, self.std))
        full = F.interpolate(
            logits, scale_factor=LOGIT_STRIDE, mode="bilinear", align_corners=False
        )
        # By way of float: TensorRT makes uint8 from floating point only.
        labels = full.argmax(1).float().to(torch.uint8)
        return (labels, logits) if self.logits else (labels,)
