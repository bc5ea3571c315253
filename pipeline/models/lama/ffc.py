"""Fast Fourier convolution: every output pixel sees the whole map, through its spectrum.

A feature is a pair. Its local part is read by ordinary convolutions; its global part also by a small convolution over
frequencies. Both parts have the same height and width.

Chi, Jiang and Mu, "Fast Fourier Convolution", NeurIPS 2020, in the form LaMa uses it: no local Fourier unit, mirrored
borders. Submodules are named as in the published weights (``l2g``: from the local part to the global one).
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

Feature: TypeAlias = tuple[Tensor, Tensor]
"""Local and global part, (B, C_l, h, w) and (B, C_g, h, w)."""


class FourierUnit(nn.Module):
    """Mixes the channels of each frequency: a 1x1 convolution of the spectrum, so global in space."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_layer = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(2 * channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape and type.

        The inside is float32 whatever autocast says: the zero frequency sums a whole map, which float16 may not hold,
        and bfloat16 has no complex numbers.
        """
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.view_as_real(torch.fft.rfft2(x.float(), norm="ortho"))  # (B, C, h, w // 2 + 1, 2)
            parts = spectrum.permute(0, 1, 4, 2, 3).flatten(1, 2)  # (B, 2 C, h, w // 2 + 1): re, im, re, im, …
            parts = self.relu(self.bn(self.conv_layer(parts)))
            spectrum = parts.unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2).contiguous()
            # Without s an odd width would come back one pixel short.
            y: Tensor = torch.fft.irfft2(torch.view_as_complex(spectrum), s=x.shape[-2:], norm="ortho")
        return y.to(x.dtype)


class SpectralTransform(nn.Module):
    """The way from the global part to itself: a Fourier unit on half the channels, beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.conv1 = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(inplace=True)
        )
        self.fu = FourierUnit(inner)
        self.conv2 = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        h = self.conv1(x)
        out: Tensor = self.conv2(h + self.fu(h))
        return out


class SplitConv(nn.Module):
    """An FFC whose input is all local: two convolutions of halved size, one for each part."""

    def __init__(self, channels: int, local_channels: int, global_channels: int) -> None:
        super().__init__()
        self.convl2l = mirrored_conv(channels, local_channels, stride=2)
        self.convl2g = mirrored_conv(channels, global_channels, stride=2)

    def forward(self, x: Tensor) -> Feature:
        """(B, C, 2h, 2w) to a feature of h x w."""
        return self.convl2l(x), self.convl2g(x)


class FastFourierConv(nn.Module):
    """An FFC from a feature to a feature: each part is made of both."""

    def __init__(self, local_channels: int, global_channels: int) -> None:
        super().__init__()
        self.convl2l = mirrored_conv(local_channels, local_channels)
        self.convl2g = mirrored_conv(local_channels, global_channels)
        self.convg2l = mirrored_conv(global_channels, local_channels)
        self.convg2g = SpectralTransform(global_channels)

    def forward(self, feature: Feature) -> Feature:
        x_l, x_g = feature
        return self.convl2l(x_l) + self.convg2l(x_g), self.convl2g(x_l) + self.convg2g(x_g)


class NormedFfc(nn.Module):
    """An FFC, then batch norm and ReLU on each part."""

    def __init__(self, ffc: SplitConv | FastFourierConv, local_channels: int, global_channels: int) -> None:
        super().__init__()
        self.ffc = ffc
        self.bn_l = nn.BatchNorm2d(local_channels)
        self.bn_g = nn.BatchNorm2d(global_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor | Feature) -> Feature:
        y_l, y_g = self.ffc(x)
        return self.relu(self.bn_l(y_l)), self.relu(self.bn_g(y_g))


def mirrored_conv(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Conv2d:
    """3x3, no bias, its border mirrored without repeating the edge."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, padding_mode="reflect", bias=False)
