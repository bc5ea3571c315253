"""LaMa's generator: a photo with holes in, the photo it may have been out.

Suvorov et al., "Resolution-robust Large Mask Inpainting with Fourier Convolutions", WACV 2022. The defaults are the
published big-lama; its weights load strictly.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import torch
from torch import Tensor, nn

from pipeline.models.lama.ffc import FastFourierConv, Feature, NormedFfc, SplitConv, mirrored_conv

SIDE_MULTIPLE_PX: Final = 8
"""Three layers halve the map, and come back to the same size from multiples of this only."""

SMALLEST_SIDE_PX: Final = 16
"""The smallest map needs two pixels a side: one has nothing to mirror."""


class LamaGenerator(nn.Module):
    """Three layers down, residual blocks of fast Fourier convolutions, three layers up.

    ``model`` numbers its layers as the published weights do. A quarter of the channels between the layers down and up
    is local, the rest global.

    Args:
        width: Channels after the first layer; each of the three layers down doubles them.
        blocks: Residual blocks.
    """

    def __init__(self, *, width: int = 64, blocks: int = 18) -> None:
        super().__init__()
        local_channels, global_channels = 2 * width, 6 * width
        first = nn.Conv2d(4, width, 7, bias=False)
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            _local_layer(first),
            _local_layer(mirrored_conv(width, 2 * width, stride=2)),
            _local_layer(mirrored_conv(2 * width, 4 * width, stride=2)),
            NormedFfc(SplitConv(4 * width, local_channels, global_channels), local_channels, global_channels),
            *(ResidualBlock(local_channels, global_channels) for _ in range(blocks)),
            Join(),
            *_up_layer(8 * width, 4 * width),
            *_up_layer(4 * width, 2 * width),
            *_up_layer(2 * width, width),
            nn.ReflectionPad2d(3),
            nn.Conv2d(width, 3, 7),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The whole picture as the network sees it, also where it was not asked to.

        Args:
            x: (B, 4, H, W) from ``masked_input``; H and W are multiples of 8 and at least 16.

        Returns:
            RGB, float32, (B, 3, H, W), in [0, 1].
        """
        logits: Tensor = self.model(x)  # (B, 3, H, W)
        return logits.float().sigmoid()  # half types have fewer levels near 1 than a picture has


class ResidualBlock(nn.Module):
    """Two FFC layers beside an identity. Nothing follows the addition."""

    def __init__(self, local_channels: int, global_channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            NormedFfc(FastFourierConv(local_channels, global_channels), local_channels, global_channels)
            for _ in range(2)
        )

    def forward(self, feature: Feature) -> Feature:
        x_l, x_g = feature
        y_l, y_g = self.conv2(self.conv1(feature))
        return x_l + y_l, x_g + y_g


class Join(nn.Module):
    """Both parts of a feature as one map, (B, C_l + C_g, h, w)."""

    def forward(self, feature: Feature) -> Tensor:
        return torch.cat(feature, dim=1)


def masked_input(image: Tensor, mask: Tensor) -> Tensor:
    """What the network reads: the image with its holes black, and where they are.

    Args:
        image: RGB, float, (B, 3, H, W), in [0, 1].
        mask: float, (B, 1, H, W); 1 is a hole, 0 is not, nothing between.

    Returns:
        float, (B, 4, H, W).
    """
    return torch.cat([image * (1 - mask), mask], dim=1)


def _local_layer(conv: nn.Conv2d) -> nn.Sequential:
    """An FFC layer without a global part is a convolution with batch norm and ReLU, (B, C, H, W) to (B, C', H', W')."""
    ffc = nn.Sequential(OrderedDict(convl2l=conv))
    return nn.Sequential(OrderedDict(ffc=ffc, bn_l=nn.BatchNorm2d(conv.out_channels), act=nn.ReLU(inplace=True)))


def _up_layer(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    """(B, C, h, w) to (B, C', 2h, 2w)."""
    conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
    return conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
