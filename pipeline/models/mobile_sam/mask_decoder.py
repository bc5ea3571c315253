"""SAM's mask decoder: an image embedding and prompts to masks with an estimate of how good each is.

Kirillov et al., "Segment Anything", ICCV 2023, appendix A.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.mobile_sam.channel_norm import ChannelNorm
from pipeline.models.mobile_sam.two_way_transformer import TwoWayTransformer

MASKS = 4
"""One for prompts that leave no doubt, then three for the whole, a part and a part of that."""


class MaskDecoder(nn.Module):
    """Decodes many prompts at once, each on an image of its own or all on one."""

    def __init__(self, width: int, depth: int = 2, heads: int = 8) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(width, depth, heads)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(MASKS, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, 2),
            ChannelNorm(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Mlp((width, width, width, width // 8)) for _ in range(MASKS))
        self.iou_prediction_head = Mlp((width, width, width, MASKS))

    def forward(
        self, embeddings: Tensor, map_code: Tensor, sparse: Tensor, dense: Tensor, is_used: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mask logits (P, 4, 4h, 4w) and the predicted IoU of each, (P, 4).

        Args:
            embeddings: (P, C, h, w), or (1, C, h, w) where all prompts are about one image.
            map_code: Positional code of the embedding's pixels, (1, C, h, w).
            sparse: Prompt tokens, (P, T, C).
            dense: Dense prompt embeddings, (P or 1, C, h or 1, w or 1).
            is_used: bool, (P, T), False for slots that only fill up the batch.
        """
        prompts = sparse.shape[0]
        output = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(prompts, -1, -1)
        tokens = torch.cat([output, sparse], dim=1)
        key_mask = torch.cat([is_used.new_ones(output.shape[:2]), is_used], dim=1)[:, None, None, :]

        image = embeddings + dense
        size_hw = image.shape[2:]
        tokens, pixels = self.transformer(
            tokens, image.flatten(2).transpose(1, 2), map_code.flatten(2).transpose(1, 2), key_mask
        )

        features: Tensor = self.output_upscaling(
            pixels.transpose(1, 2).reshape(prompts, -1, *size_hw)
        )  # (P, C / 8, 4h, 4w)
        weights = torch.stack([mlp(tokens[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1)
        logits = (weights @ features.flatten(2)).reshape(prompts, MASKS, *features.shape[2:])
        return logits, self.iou_prediction_head(tokens[:, 0])


class Mlp(nn.Module):
    """Linear maps from width to width, with a ReLU between each two."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x) if i == 0 else layer(F.relu(x))
        return x
