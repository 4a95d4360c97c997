"""What training minimises."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from segclip_deploy.artifacts.vocabulary import IGNORE_INDEX
from segclip_deploy.model.segclip import SegOutput

__all__ = ["AUXILIARY_WEIGHT", "segmentation_loss"]

AUXILIARY_WEIGHT = 0.4
"""Share of the score maps' loss, averaged over levels (the usual weight of an auxiliary head)."""


def segmentation_loss(output: SegOutput, ground_truth: Tensor) -> Tensor:
    """Cross-entropy of the logits, plus that of each CFF score map.

    The second term keeps the modalities consistent: at every fused level a pixel must lie
    nearest to the text of its own class.

    Args:
        output: of the network, for images (B, 3, H, W).
        ground_truth: (B, H, W) int64 class indices, ``IGNORE_INDEX`` where ignored.
    """
    loss = _cross_entropy(output.logits, ground_truth)
    if output.scores:
        auxiliary = [_cross_entropy(score, ground_truth) for score in output.scores]
        loss = loss + AUXILIARY_WEIGHT * sum(auxiliary, loss.new_zeros(())) / len(auxiliary)
    return loss


def _cross_entropy(scores: Tensor, ground_truth: Tensor) -> Tensor:
    full = F.interpolate(
        scores.float(), ground_truth.shape[-2:], mode="bilinear", align_corners=False
    )
    # Summed by itself: the sum inside adds up in another order each time on a GPU.
    each = F.cross_entropy(full, ground_truth, ignore_index=IGNORE_INDEX, reduction="none")
    total = each.sum()
    counted = (ground_truth != IGNORE_INDEX).sum()
    return total / counted.clamp(min=1)  # a batch may be ignored entirely
