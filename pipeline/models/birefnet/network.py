"""BiRefNet, whole: picture in, logits of the foreground out.

Zheng et al., "Bilateral Reference for High-Resolution Dichotomous Image Segmentation", CAAI AIR 2024.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from pipeline.errors import ShapeMismatch
from pipeline.models.birefnet.decoder import Decoder, resize
from pipeline.models.birefnet.decoder_block import DecoderBlock
from pipeline.models.birefnet.shape import BiRefNetShape
from pipeline.models.birefnet.swin import SwinBackbone

SIDE_MULTIPLE: Final = 32


class BiRefNet(nn.Module):
    """The network of every variant; ``shape`` says which. For inference: use it in ``eval`` mode."""

    def __init__(self, shape: BiRefNetShape) -> None:
        super().__init__()
        self.shape = shape
        channels = shape.channels
        self.bb = SwinBackbone(shape)
        self.squeeze_module = nn.Sequential(DecoderBlock(sum(channels), channels[0], shape))
        self.decoder = Decoder(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of the foreground.

        Args:
            x: (B, 3, H, W), RGB, normalised as in ``predictor.py``; H and W are multiples of 32.

        Raises:
            ShapeMismatch: A side is not a multiple of 32.
        """
        if x.shape[2] % SIDE_MULTIPLE or x.shape[3] % SIDE_MULTIPLE:
            raise ShapeMismatch(f"Sides must be multiples of {SIDE_MULTIPLE}, not {x.shape[2]} x {x.shape[3]}.")
        logits: Tensor = self.decoder(x, self.encode(x))
        return logits

    def encode(self, x: Tensor) -> list[Tensor]:
        """The decoder's four maps, finest first: features of the picture and of its half, the coarsest with context."""
        half = resize(x, (x.shape[2] // 2, x.shape[3] // 2))
        maps = [
            torch.cat((fine, resize(coarse, (fine.shape[2], fine.shape[3]))), dim=1)
            for fine, coarse in zip(self.bb(x), self.bb(half), strict=True)
        ]
        *finer, last = maps
        size_hw = (last.shape[2], last.shape[3])
        context = torch.cat([*(resize(m, size_hw) for m in finer), last], dim=1)
        return [*finer, self.squeeze_module(context)]
