"""BiRefNet as one would first write it: what its faster forms are measured against.

The official structure step by step, channels first, in eager float32. Deformable convolutions sample one row of k taps
at a time; attention is a product, a sum, a softmax and a product; every concatenation is made. It computes what
``pipeline/models/birefnet/`` computes, on the same weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.birefnet.decoder import Decoder, resize
from pipeline.models.birefnet.decoder_block import DeformablePyramid
from pipeline.models.birefnet.deformable_convolution import DeformableConvolution
from pipeline.models.birefnet.network import BiRefNet
from pipeline.models.birefnet.swin import WindowAttention, shift_mask
from scripts.network_benchmarks.swap import swap

_BLOCKED = -100.0


def straightforward_birefnet(network: BiRefNet) -> BiRefNet:
    """The straightforward form of ``network``, in ``eval`` mode; it shares the weights."""
    with torch.device("meta"):
        plain = BiRefNet(network.shape)
        plain.decoder = _Decoder(network.shape)
    plain.load_state_dict(network.state_dict(), strict=True, assign=True)
    swap(plain, DeformableConvolution, _RowWiseConvolution)
    swap(plain, DeformablePyramid, _Pyramid)
    swap(plain, WindowAttention, _Attention)
    return plain.eval().requires_grad_(False)


def row_wise_convolution(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    """The deformable convolution by one ``grid_sample`` for each row of k taps, and one product for what it gave.

    Shapes and meaning are those of ``deformable_convolution``; H and W are at least 2.
    """
    batch, channels, height, width = x.shape
    kernel = weight.shape[-1]
    reach = kernel // 2
    rows = torch.arange(height, dtype=x.dtype, device=x.device).view(1, 1, height, 1)
    columns = torch.arange(width, dtype=x.dtype, device=x.device).view(1, 1, 1, width)
    taps = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device).view(1, kernel, 1, 1)
    offset = offset.view(batch, kernel, kernel, 2, height, width)
    modulation = modulation.view(batch, 1, kernel, kernel, height, width)
    result = x.new_zeros(batch, weight.shape[0], height * width)
    for i in range(kernel):
        at_y = rows + (i - reach) + offset[:, i, :, 0]  # (B, k, H, W)
        at_x = columns + taps + offset[:, i, :, 1]
        grid = torch.stack((2 * at_x / (width - 1) - 1, 2 * at_y / (height - 1) - 1), dim=-1)
        sampled = F.grid_sample(x, grid.flatten(1, 2), padding_mode="zeros", align_corners=True)  # (B, C, k·H, W)
        sampled = sampled.view(batch, channels, kernel, height, width) * modulation[:, :, i]
        result = result + weight[:, :, i].flatten(1) @ sampled.view(batch, channels * kernel, height * width)
    return result.view(batch, -1, height, width)


class _RowWiseConvolution(nn.Module):
    def __init__(self, ours: DeformableConvolution) -> None:
        super().__init__()
        self.offset_conv, self.modulator_conv = ours.offset_conv, ours.modulator_conv
        self.regular_conv = ours.regular_conv

    def forward(self, x: Tensor) -> Tensor:
        modulation = 2 * torch.sigmoid(self.modulator_conv(x))
        return row_wise_convolution(x, self.offset_conv(x), modulation, self.regular_conv.weight)


class _Pyramid(nn.Module):
    """All branches side by side, then mixed."""

    def __init__(self, ours: DeformablePyramid) -> None:
        super().__init__()
        self.aspp1, self.aspp_deforms, self.global_avg_pool = ours.aspp1, ours.aspp_deforms, ours.global_avg_pool
        self.conv1, self.bn1 = ours.conv1, ours.bn1

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.global_avg_pool(x).expand(-1, -1, x.shape[2], x.shape[3])
        branches = torch.cat([self.aspp1(x), *(branch(x) for branch in self.aspp_deforms), pooled], dim=1)
        return F.relu(self.bn1(self.conv1(branches)))


class _Decoder(Decoder):
    """The last step at the picture's size, with all channels."""

    def _logits(self, x: Tensor, state: Tensor) -> Tensor:
        state = resize(state, (x.shape[2], x.shape[3]))
        logits: Tensor = self.conv_out1(torch.cat((state, self._call("ipt_blk1", x)), dim=1))
        return logits


class _Attention(nn.Module):
    """Every window with its own mask, if the map is shifted."""

    relative_position_index: Tensor

    def __init__(self, ours: WindowAttention) -> None:
        super().__init__()
        self.heads, self.window, self.shift = ours.heads, ours.window, ours.shift
        self.qkv, self.proj = ours.qkv, ours.proj
        self.relative_position_bias_table = ours.relative_position_bias_table
        self.register_buffer("relative_position_index", ours.relative_position_index)

    def forward(self, windows: Tensor) -> Tensor:
        """Windows (B, rows, columns, N, C), from the same."""
        batch, rows, columns, tokens, channels = windows.shape
        qkv = self.qkv(windows).view(batch, rows * columns, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each (B, windows, heads, N, d)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        scores = scores + bias.view(tokens, tokens, self.heads).permute(2, 0, 1)
        if self.shift:
            scores = scores + self._mask(rows, columns)[:, None]
        mixed = (scores.softmax(dim=-1) @ v).transpose(2, 3).reshape(batch, rows, columns, tokens, channels)
        projected: Tensor = self.proj(mixed)
        return projected

    def _mask(self, rows: int, columns: int) -> Tensor:
        """What is added to the scores of each window, (windows, N, N)."""
        in_last_row = torch.arange(rows)[:, None] == rows - 1
        in_last_column = torch.arange(columns) == columns - 1
        kind = (2 * in_last_row + 1 * in_last_column).flatten()
        return _BLOCKED * shift_mask(self.window, self.shift)[kind].float()
