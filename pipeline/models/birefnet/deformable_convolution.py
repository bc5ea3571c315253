"""The deformable convolution: one operator of ours, in plain PyTorch.

A trace or an export sees one node, ``clearcut::deformable_convolution``, and other runtimes have their own form of it.

Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CPU_COLUMN_BYTES: Final = 8 * 2**20
_GPU_COLUMN_BYTES: Final = 2**30
"""Sampled values held at a time: on a CPU they should still be in its cache when the product reads them."""

_LINE: Final = 16
"""float32 values in a cache line."""


class DeformableConvolution(nn.Module):
    """A k × k convolution, stride 1, that decides from its input where each tap looks and how much it counts."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        padding = kernel // 2
        self.offset_conv = nn.Conv2d(in_channels, 2 * kernel**2, kernel, padding=padding)
        self.modulator_conv = nn.Conv2d(in_channels, kernel**2, kernel, padding=padding)
        self.regular_conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C', H, W) from (B, C, H, W)."""
        modulation = 2 * torch.sigmoid(self.modulator_conv(x))
        offset = self.offset_conv(x)
        y: Tensor = torch.ops.clearcut.deformable_convolution(x, offset, modulation, self.regular_conv.weight)
        return y


def deformable_convolution(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    """Convolution of ``x``, stride 1, padding k // 2, whose taps are displaced and weighted pixel by pixel.

    Tap t = i·k + j reads ``x`` bilinearly at row y - k//2 + i + offset[2t], column x - k//2 + j + offset[2t + 1], where
    everything outside counts as 0; what it reads is multiplied by modulation[t], then by weight[:, :, i, j].

    All taps of a run of pixels are sampled by one call, in the order in which the weights lie, so that one matrix
    product makes those pixels. Sampling is done in float32 whatever the inputs' precision: half precision cannot tell
    the places of a large map apart.

    Args:
        x: (B, C, H, W).
        offset: (B, 2·k², H, W), in pixels, row before column.
        modulation: (B, k², H, W).
        weight: (C', C, k, k), k odd.

    Returns:
        (B, C', H, W) in the precision of ``weight``.
    """
    batch, channels, height, width = x.shape
    kernel = weight.shape[-1]
    taps, pixels = kernel**2, height * width
    groups = _channel_groups(x)
    source = _spread(x.float()).view(batch * groups, channels // groups, height, width)
    offset = offset.float().reshape(batch, taps, 2, pixels)
    modulation = modulation.float().reshape(batch, 1, taps, pixels)
    matrix = weight.flatten(1)  # (C', C·k²)

    run = min(_pixels_per_run(4 * batch * channels * taps, x.device), pixels)
    results = []
    for start in range(0, pixels, run):
        stop = min(start + run, pixels)
        grid = _sampling_grid(offset[..., start:stop], kernel, start, (height, width))
        grid = grid[:, None].expand(-1, groups, -1, -1, -1).flatten(0, 1)
        # Not align_corners: the sampler then recovers pixels from the grid with fewer roundings.
        columns = F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        columns = columns.view(batch, channels, taps, stop - start).mul_(modulation[..., start:stop])
        results.append(matrix @ columns.flatten(1, 2).to(matrix.dtype))
    result = results[0] if len(results) == 1 else torch.cat(results, dim=2)
    return result.view(batch, -1, height, width)


_operator: Final = torch.library.custom_op("clearcut::deformable_convolution", deformable_convolution, mutates_args=())


@_operator.register_fake
def _shape_of_the_result(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], x.shape[2], x.shape[3], dtype=weight.dtype)


def _sampling_grid(offset: Tensor, kernel: int, start: int, size_hw: tuple[int, int]) -> Tensor:
    """Where the taps of pixels ``start``, … look: (B, k², P, 2), x before y, in the units of ``grid_sample``.

    ``offset`` is (B, k², 2, P), row before column. The coordinates lie in planes, so that the CPU's sampler can load
    neighbours at once.
    """
    height, width = size_hw
    device = offset.device
    pixel = torch.arange(start, start + offset.shape[-1], device=device)
    pixel_xy = torch.stack((pixel % width, pixel // width))  # (2, P)
    tap = torch.arange(kernel**2, device=device)
    tap_xy = torch.stack((tap % kernel, tap // kernel), dim=1) - kernel // 2  # (k², 2)
    position = offset.flip(2) + (pixel_xy + tap_xy[..., None])  # (B, k², 2, P), x before y
    for axis, side in ((0, width), (1, height)):
        position[:, :, axis].mul_(2 / side).add_(1 / side - 1)
    return position.transpose(2, 3)


def _channel_groups(x: Tensor) -> int:
    """Into how many images the channels are split: the CPU's sampler runs one thread per image."""
    threads = torch.get_num_threads()
    if x.device.type != "cpu" or x.shape[0] >= threads:
        return 1
    return math.gcd(x.shape[1], 1 << (threads - 1).bit_length())


def _spread(x: Tensor) -> Tensor:
    """``x`` as (B, C, H·W), its channels an odd number of cache lines apart.

    All channels of a pixel are read together. Planes of 2^n bytes would put them into the same few places of the cache.
    """
    x = x.flatten(2)
    pixels = x.shape[2]
    return F.pad(x, (0, (_LINE - pixels) % (2 * _LINE)))[..., :pixels]


def _pixels_per_run(bytes_per_pixel: int, device: torch.device) -> int:
    """An odd number of cache lines (see ``_spread``), as many as the memory for sampled values holds."""
    limit = _CPU_COLUMN_BYTES if device.type == "cpu" else _GPU_COLUMN_BYTES
    lines = max(limit // (bytes_per_pixel * _LINE) - 1, 1)
    return (lines | 1) * _LINE
