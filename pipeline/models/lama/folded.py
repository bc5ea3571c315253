"""LaMa's generator for serving: the same function with less to do.

Batch norm is part of the convolutions, convolutions whose outputs are added are one, and a feature is one map, its
local channels first, whose border is mirrored once for all that read it.
"""

from __future__ import annotations

import itertools
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.lama.ffc import FastFourierConv, FourierUnit, NormedFfc, SplitConv
from pipeline.models.lama.fourier import RealFourier
from pipeline.models.lama.network import LamaGenerator, ResidualBlock


class FoldedLama(nn.Module):
    """What a ``LamaGenerator`` computes, up to rounding errors. It has weights of its own, under names of its own.

    Args:
        network: With its weights.
        size_hw: Height and width of all pictures, multiples of 8. Fourier transforms are then products with constant
            matrices and no number is complex, as exporters want it. None is for any size, with ``torch.fft``.
    """

    @torch.no_grad()
    def __init__(self, network: LamaGenerator, size_hw: tuple[int, int] | None = None) -> None:
        super().__init__()
        fourier = None if size_hw is None else RealFourier((size_hw[0] // 8, size_hw[1] // 8))
        layers = list(network.model)
        split = cast(NormedFfc, layers[4])
        self.first, *halving = (_folded_local(cast(nn.Sequential, layer)) for layer in layers[1:4])
        self.halving = nn.ModuleList([*halving, _folded_split(split)])
        self.blocks = nn.ModuleList(FoldedBlock(layer, fourier) for layer in layers if isinstance(layer, ResidualBlock))
        self.doubling = nn.ModuleList(
            _folded_up(layer, cast(nn.BatchNorm2d, norm))
            for layer, norm in itertools.pairwise(layers)
            if isinstance(layer, nn.ConvTranspose2d)
        )
        last = cast(nn.Conv2d, layers[-1])
        self.last = _conv(last.weight, last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes and ranges as ``LamaGenerator.forward``."""
        x = self.first(_mirrored(x, 3)).relu_()
        for conv in self.halving:
            x = conv(_mirrored(x, 1)).relu_()
        for block in self.blocks:
            x = block(x)
        for conv in self.doubling:
            x = conv(x).relu_()
        logits: Tensor = self.last(_mirrored(x, 3))  # (B, 3, H, W)
        return logits.float().sigmoid()


class FoldedBlock(nn.Module):
    """A ``ResidualBlock`` from one map, (B, C_l + C_g, h, w), to the same shape."""

    def __init__(self, block: ResidualBlock, fourier: RealFourier | None) -> None:
        super().__init__()
        self.conv1 = FoldedFfc(block.conv1, fourier)
        self.conv2 = FoldedFfc(block.conv2, fourier)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return x + y


class FoldedFfc(nn.Module):
    """A ``NormedFfc`` inside a block, from one map to one map."""

    def __init__(self, normed: NormedFfc, fourier: RealFourier | None) -> None:
        super().__init__()
        ffc = cast(FastFourierConv, normed.ffc)
        scale_l, shift_l = _scale_and_shift(normed.bn_l)
        scale_g, shift_g = _scale_and_shift(normed.bn_g)
        spectral = ffc.convg2g
        self.local_channels = ffc.convl2l.in_channels
        self.to_local = _conv(torch.cat([ffc.convl2l.weight, ffc.convg2l.weight], 1), shift_l, scale_l)
        self.local_to_global = _conv(ffc.convl2g.weight, shift_g, scale_g)
        conv1, norm1 = cast(nn.Conv2d, spectral.conv1[0]), cast(nn.BatchNorm2d, spectral.conv1[1])
        self.conv1 = _folded(conv1, norm1)
        self.fourier_unit = FoldedFourierUnit(spectral.fu, fourier)
        self.conv2 = _conv(spectral.conv2.weight, None, scale_g)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_l + C_g, h, w) to the same shape."""
        mirrored = _mirrored(x, 1)
        h = self.conv1(x[:, self.local_channels :]).relu_()
        y_g = self.conv2(h + self.fourier_unit(h)) + self.local_to_global(mirrored[:, : self.local_channels])
        return torch.cat([self.to_local(mirrored), y_g], 1).relu_()


class FoldedFourierUnit(nn.Module):
    """A ``FourierUnit``, its transforms products with ``fourier``'s matrices, or ``torch.fft`` where that is None."""

    def __init__(self, unit: FourierUnit, fourier: RealFourier | None) -> None:
        super().__init__()
        self.conv = _folded(unit.conv_layer, unit.bn)
        self.fourier = fourier

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape and type; float32 inside, whatever autocast says."""
        batch, channels, height, width = x.shape
        with torch.autocast(x.device.type, enabled=False):
            if self.fourier is not None:
                # (B, C, 2 h, w // 2 + 1) in memory is (B, 2 C, h, w // 2 + 1): re, im, re, im, …
                parts = self.fourier.spectrum(x.float()).reshape(batch, 2 * channels, height, -1)
                parts = self.conv(parts).relu_().reshape(batch, channels, 2 * height, -1)
                return self.fourier.map_of(parts).to(x.dtype)
            spectrum = torch.view_as_real(torch.fft.rfft2(x.float(), norm="ortho"))
            parts = self.conv(spectrum.permute(0, 1, 4, 2, 3).flatten(1, 2)).relu_()
            parts = parts.reshape(batch, channels, 2, height, -1).permute(0, 1, 3, 4, 2).contiguous()
            y: Tensor = torch.fft.irfft2(torch.view_as_complex(parts), s=(height, width), norm="ortho")
        return y.to(x.dtype)


def _mirrored(x: Tensor, pixels: int) -> Tensor:
    return F.pad(x, (pixels, pixels, pixels, pixels), mode="reflect")


def _folded_local(layer: nn.Sequential) -> nn.Conv2d:
    """One of the first layers: ``ffc.convl2l``, ``bn_l``, ``act``."""
    conv, norm = layer.get_submodule("ffc.convl2l"), layer.get_submodule("bn_l")
    return _folded(cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm))


def _folded_split(normed: NormedFfc) -> nn.Conv2d:
    """The layer that splits a map into local and global channels: one convolution for both."""
    ffc = cast(SplitConv, normed.ffc)
    scale, shift = (
        torch.cat(pair) for pair in zip(_scale_and_shift(normed.bn_l), _scale_and_shift(normed.bn_g), strict=True)
    )
    return _conv(torch.cat([ffc.convl2l.weight, ffc.convl2g.weight]), shift, scale, stride=2)


def _folded_up(conv: nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> nn.ConvTranspose2d:
    scale, shift = _scale_and_shift(norm)
    assert conv.bias is not None
    folded = nn.ConvTranspose2d(
        conv.in_channels, conv.out_channels, 3, stride=2, padding=1, output_padding=1, device="meta"
    )
    folded.weight = _constant(conv.weight * scale[:, None, None])  # (C_in, C_out, 3, 3)
    folded.bias = _constant(conv.bias * scale + shift)
    return folded


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution without bias and the norm after it as one convolution."""
    scale, shift = _scale_and_shift(norm)
    return _conv(conv.weight, shift, scale, stride=conv.stride[0])


def _conv(weight: Tensor, bias: Tensor | None, scale: Tensor | None = None, *, stride: int = 1) -> nn.Conv2d:
    """A convolution without padding: ``weight`` times the output channels' ``scale``."""
    c_out, c_in, size, _ = weight.shape
    conv = nn.Conv2d(c_in, c_out, size, stride, bias=False, device="meta")
    conv.weight = _constant(weight if scale is None else weight * scale[:, None, None, None])
    conv.bias = None if bias is None else _constant(bias)
    return conv


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().clone(), requires_grad=False)


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What the norm does in evaluation mode: each channel times the first, plus the second."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale
