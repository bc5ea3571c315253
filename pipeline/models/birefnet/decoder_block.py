"""The block that BiRefNet's decoder is made of: two convolutions around a pyramid of deformable ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.birefnet.deformable_convolution import DeformableConvolution
from pipeline.models.birefnet.shape import BiRefNetShape

_KERNELS = (1, 3, 7)


class DecoderBlock(nn.Module):
    """Any number of channels in, any number out, ``inner_channels`` between. No ReLU at the end."""

    def __init__(self, in_channels: int, out_channels: int, shape: BiRefNetShape) -> None:
        super().__init__()
        inner = shape.inner_channels
        # Made in the checkpoints' order, which is not the order of use.
        self.conv_in = nn.Conv2d(in_channels, inner, 3, padding=1)
        self.dec_att = DeformablePyramid(shape)
        self.conv_out = nn.Conv2d(inner, out_channels, 3, padding=1)
        self.bn_in = nn.BatchNorm2d(inner)
        self.bn_out = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C', H, W) from (B, C, H, W)."""
        x = F.relu(self.bn_in(self.conv_in(x)))
        x = self.bn_out(self.conv_out(self.dec_att(x)))
        return x


class DeformablePyramid(nn.Module):
    """Deformable convolutions of several sizes and the whole map's mean, side by side on the same input, then mixed.

    The atrous pyramid of Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, with
    deformable convolutions for the dilated ones.
    """

    def __init__(self, shape: BiRefNetShape) -> None:
        super().__init__()
        inner, branch = shape.inner_channels, shape.branch_channels
        self.aspp1 = PyramidBranch(inner, branch, 1)
        self.aspp_deforms = nn.ModuleList(PyramidBranch(inner, branch, kernel) for kernel in _KERNELS)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inner, branch, 1, bias=False), nn.BatchNorm2d(branch), nn.ReLU()
        )
        self.conv1 = nn.Conv2d((2 + len(_KERNELS)) * branch, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inner, H, W) from (B, inner, H, W)."""
        # conv1 is fed branch by branch: all of them side by side would be the largest map of the network.
        branches = (self.aspp1, *self.aspp_deforms)
        *weights, pooled_weight = self.conv1.weight.chunk(len(branches) + 1, dim=1)
        mixed = F.conv2d(self.global_avg_pool(x), pooled_weight)  # (B, inner, 1, 1)
        for branch, weight in zip(branches, weights, strict=True):
            mixed = mixed + F.conv2d(branch(x), weight)
        return F.relu(self.bn1(mixed))


class PyramidBranch(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.atrous_conv = DeformableConvolution(in_channels, out_channels, kernel)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.bn(self.atrous_conv(x)))
