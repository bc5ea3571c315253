"""SAM's prompt encoder: points, boxes and earlier masks to what the mask decoder reads.

Kirillov et al., "Segment Anything", ICCV 2023. The positional code is that of Tancik et al., "Fourier Features Let
Networks Learn High Frequency Functions in Low Dimensional Domains", NeurIPS 2020.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from pipeline.models.mobile_sam.channel_norm import ChannelNorm
from pipeline.models.mobile_sam.derived import Derived

EMPTY: Final = -2
"""A slot that only fills up a batch: nothing attends to it."""

PADDING: Final = -1
"""SAM's own extra point of prompts without a box: the network was trained with it and attends to it."""

BACKGROUND: Final = 0
FOREGROUND: Final = 1
BOX_TOP_LEFT: Final = 2
BOX_BOTTOM_RIGHT: Final = 3


class PromptEncoder(nn.Module):
    """Prompts on a square frame to sparse tokens and dense embeddings.

    Args:
        width: Channels of tokens and embeddings.
        frame_px: Side of the frame that points are given in.
        map_side: Side of the image embedding; mask prompts have four times that.
    """

    def __init__(self, width: int, frame_px: int, map_side: int) -> None:
        super().__init__()
        self.frame_px = frame_px
        self.pe_layer = PositionCode(width, map_side)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(BOX_BOTTOM_RIGHT + 1))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, 2, 2),
            ChannelNorm(4),
            nn.GELU(),
            nn.Conv2d(4, 16, 2, 2),
            ChannelNorm(16),
            nn.GELU(),
            nn.Conv2d(16, width, 1),
        )
        self.no_mask_embed = nn.Embedding(1, width)

    def forward(
        self, points: Tensor, labels: Tensor, mask_logits: Tensor | None = None, has_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sparse tokens (P, T, C) and dense embeddings, (P, C, h, w) or (1, C, 1, 1) without any mask.

        Args:
            points: float, (P, T, 2), (x, y) in pixels of the frame. Without a box, the last one of each prompt is
                labelled ``PADDING``; with a box, its two corners come last.
            labels: int64, (P, T); the constants above.
            mask_logits: float, (P, 1, 4h, 4w), logits of an earlier answer, or None.
            has_mask: bool, (P,), which of ``mask_logits`` count; None is all.
        """
        return self.encode_points(points, labels), self.encode_masks(mask_logits, has_mask)

    def encode_points(self, points: Tensor, labels: Tensor) -> Tensor:
        code = self.pe_layer((points + 0.5) / self.frame_px)
        kinds = [embedding.weight for embedding in (self.not_a_point_embed, *self.point_embeddings)]
        learned = torch.cat([torch.zeros_like(self.not_a_point_embed.weight), *kinds])  # (6, C), EMPTY first
        return torch.where(labels[..., None] >= BACKGROUND, code, 0.0) + learned[labels - EMPTY]

    def encode_masks(self, mask_logits: Tensor | None, has_mask: Tensor | None) -> Tensor:
        no_mask = self.no_mask_embed.weight[:, :, None, None]  # (1, C, 1, 1)
        if mask_logits is None:
            return no_mask
        dense: Tensor = self.mask_downscaling(mask_logits)
        return dense if has_mask is None else torch.where(has_mask[:, None, None, None], dense, no_mask)

    def map_code(self) -> Tensor:
        """The positional code of the image embedding, (1, C, h, w)."""
        return self.pe_layer.constant()


class PositionCode(Derived):
    """Random Fourier features of places in the unit square; those of the map's pixels are kept in eval mode."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, width: int, map_side: int) -> None:
        super().__init__()
        self.map_side = map_side
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, places: Tensor) -> Tensor:
        """(..., 2) as (x, y), each in [0, 1], to codes (..., C)."""
        phase = 2 * math.pi * ((2 * places - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([phase.sin(), phase.cos()], dim=-1)

    def derive(self) -> Tensor:
        matrix = self.positional_encoding_gaussian_matrix
        centres = (torch.arange(self.map_side, device=matrix.device, dtype=matrix.dtype) + 0.5) / self.map_side
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        return self.forward(torch.stack([columns, rows], dim=-1)).permute(2, 0, 1)[None]
