"""What training minimises."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BOUNDARY_WEIGHT = 4.0
"""How much more a pixel counts where its neighbourhood is half inside, half outside."""
COARSE_WEIGHTS = (0.4, 0.25)


def training_loss(logits: tuple[Tensor, Tensor, Tensor], masks: Tensor) -> Tensor:
    """One number for a batch: the full resolution's loss plus a share of the coarser two's.

    Args:
        logits: (B, 1, H, W), (B, 1, H / 4, W / 4), (B, 1, H / 8, W / 8), as the network returns them.
        masks: (B, 1, H, W), float, 0..1.
    """
    full, quarter, eighth = logits
    quarter_masks = F.avg_pool2d(masks, 4)
    eighth_masks = F.avg_pool2d(quarter_masks, 2)
    weights = 1 + F.interpolate(_boundary(quarter_masks), scale_factor=4, mode="nearest")
    return (
        _level_loss(full.float(), masks, weights)
        + COARSE_WEIGHTS[0] * _level_loss(quarter.float(), quarter_masks, 1 + _boundary(quarter_masks))
        + COARSE_WEIGHTS[1] * _level_loss(eighth.float(), eighth_masks, torch.ones_like(eighth_masks))
    )


def _boundary(masks: Tensor) -> Tensor:
    """How far each pixel differs from its surroundings, times `BOUNDARY_WEIGHT`.

    The idea is the position-aware loss of Wei et al., "F3Net", AAAI 2020.
    """
    radius = max(1, masks.shape[-1] // 14)
    surroundings = F.avg_pool2d(masks, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
    return BOUNDARY_WEIGHT * (surroundings - masks).abs()


def _level_loss(logits: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy plus one minus the soft intersection over union, both per picture, then averaged."""
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    entropy = (weights * entropy).sum((1, 2, 3)) / weights.sum((1, 2, 3))
    probability = logits.sigmoid()
    both = (weights * probability * masks).sum((1, 2, 3))
    either = (weights * (probability + masks - probability * masks)).sum((1, 2, 3))
    smoothing = 1e-3 * masks[0].numel()  # an empty mask asks for little foreground, not for exactly none
    return (entropy + 1 - (both + smoothing) / (either + smoothing)).mean()
