"""LaMa as one would first write it: every convolution of a block by itself, a Fourier transform in every unit, float32.

It computes what ``pipeline/models/lama/`` computes, on the same weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.lama.ffc import FastFourierConv, Feature
from pipeline.models.lama.network import LamaGenerator
from scripts.network_benchmarks.swap import swap


def straightforward_lama(network: LamaGenerator) -> LamaGenerator:
    """``network`` itself, its fast Fourier convolutions replaced, in ``eval`` mode."""
    swap(network, FastFourierConv, _FastFourierConv)
    return network.eval().requires_grad_(False)


class _FastFourierConv(nn.Module):
    def __init__(self, ours: FastFourierConv) -> None:
        super().__init__()
        self.convl2l, self.convl2g, self.convg2l = ours.convl2l, ours.convl2g, ours.convg2l
        self.convg2g = ours.convg2g

    def forward(self, feature: Feature) -> Feature:
        x_l, x_g = feature
        spectral = self.convg2g
        h = spectral.conv1(x_g)
        from_global = spectral.conv2(h + self._in_frequencies(h))
        return (
            _mirrored(x_l, self.convl2l.weight) + _mirrored(x_g, self.convg2l.weight),
            _mirrored(x_l, self.convl2g.weight) + from_global,
        )

    def _in_frequencies(self, x: Tensor) -> Tensor:
        unit = self.convg2g.fu
        spectrum = torch.fft.rfft2(x, norm="ortho")
        parts = torch.stack((spectrum.real, spectrum.imag), dim=2).flatten(1, 2)  # re, im, re, im, …
        parts = F.relu(unit.bn(unit.conv_layer(parts)))
        spectrum = torch.complex(parts[:, 0::2], parts[:, 1::2])
        y: Tensor = torch.fft.irfft2(spectrum, s=x.shape[-2:], norm="ortho")
        return y


def _mirrored(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight)
