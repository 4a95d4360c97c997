"""The graph that flies: pre- and post-processing around the network, text as constants."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segclip_deploy.errors import BadInput
from segclip_deploy.export.lowering import Lowered, enlarged_argmax
from segclip_deploy.model.text import TextBank

__all__ = ["ConstantText", "DeployGraph", "ExportGraph", "margin", "normalise"]


def normalise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 RGB (B, H, W, 3) → normalised (B, 3, H, W), float32.

    Cast first, then transpose: TensorRT has no transpose of uint8.
    """
    batch, height, width, channels = pixels.shape
    offset = 255 * pixels.new_tensor(mean, dtype=torch.float32).repeat(width)
    gain = 1 / (255 * pixels.new_tensor(std, dtype=torch.float32).repeat(width))
    rows = (pixels.float().flatten(2) - offset) * gain
    return rows.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def margin(logits: Tensor) -> Tensor:
    """How clear each decision is: ``runtime.windows.margin_of``, for a batch and in the graph.

    Raises:
        BadInput: one class only.
    """
    if logits.shape[1] < 2:
        raise BadInput("the network has one class, and a margin lies between two", where="--margin")
    best = logits.softmax(1).topk(2, dim=1).values
    # By way of float: TensorRT makes uint8 from floating point only.
    return ((best[:, 0] - best[:, 1]) * 255).round().to(torch.uint8)


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
    """uint8 image (B, H, W, 3) → labels (B, H, W) uint8; margin and logits where asked for.

    Args:
        network: normalised image (B, 3, H, W) → logits (B, K, H/4, W/4).
        mean, std: normalisation of RGB in 0–1.
        logits: also output the logits, for blending windows.
        margin: also output how clear each decision is, uint8 (B, H/4, W/4).

    Attributes:
        temperature: that the logits are divided by here; 1 leaves the graph as it is.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        logits: bool,
        margin: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std, self.logits, self.margin = mean, std, logits, margin
        self.temperature = 1.0

    @property
    def output_names(self) -> list[str]:
        """Names of what ``forward`` returns, in order."""
        return ["labels", *["margin"] * self.margin, *["logits"] * self.logits]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Run the network with its pre- and post-processing."""
        logits = self.network(normalise(image, self.mean, self.std))
        if self.temperature != 1:
            logits = logits / self.temperature
        # By way of float: TensorRT makes uint8 from floating point only.
        made = {"labels": self.label(logits).to(torch.uint8), "logits": logits}
        if self.margin:
            made["margin"] = margin(logits)
        return tuple(made[name] for name in self.output_names)

    def label(self, logits: Tensor) -> Tensor:
        """Logits (B, K, h, w) → labels (B, 4h, 4w), float."""
        return enlarged_argmax(logits)


class ExportGraph(Lowered, DeployGraph):
    """The same labels in the operators of a lowering: the form that is exported."""

    def label(self, logits: Tensor) -> Tensor:
        """Logits (B, K, h, w) → labels (B, 4h, 4w), float."""
        return self.operators.label(logits)
