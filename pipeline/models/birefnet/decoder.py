"""The decoder: from the coarsest map up to the photo's size, with a look at the photo itself at every step.

Zheng et al., "Bilateral Reference for High-Resolution Dichotomous Image Segmentation", CAAI AIR 2024. The inward
reference is the photo's tiles; the outward one is the gate learned from the photo's gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.birefnet.decoder_block import DecoderBlock
from pipeline.models.birefnet.image_tiles import image_tiles
from pipeline.models.birefnet.shape import BiRefNetShape

_GATE_CHANNELS = 16


def resize(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """``x`` (B, C, H, W) at another size, bilinear, corner pixels on corner pixels, as everywhere in this network."""
    if tuple(x.shape[2:]) == size_hw:
        return x
    return F.interpolate(x, size_hw, mode="bilinear", align_corners=True)


class Decoder(nn.Module):
    """Four blocks, 4 the coarsest, and what stands between them; named and ordered as in the checkpoints."""

    def __init__(self, shape: BiRefNetShape) -> None:
        super().__init__()
        c0, c1, c2, c3 = shape.channels
        tiles = {5: 3 * 32**2, 4: 3 * 16**2, 3: 3 * 8**2, 2: 3 * 4**2, 1: 3}
        seen = {5: c0 // 8, 4: c0 // 8, 3: c1 // 8, 2: c2 // 8, 1: c3 // 8}
        for n in (5, 4, 3, 2, 1):
            self.add_module(f"ipt_blk{n}", PictureBranch(tiles[n], seen[n], shape))
        for n, into, out in ((4, c0, c1), (3, c1, c2), (2, c2, c3), (1, c3, c3 // 2)):
            self.add_module(f"decoder_block{n}", DecoderBlock(into + seen[n + 1], out, shape))
        self.conv_out1 = nn.Sequential(nn.Conv2d(c3 // 2 + seen[1], 1, 1))
        widths = {4: c1, 3: c2, 2: c3}
        for n, width in widths.items():
            self.add_module(f"lateral_block{n}", Lateral(width))
        # conv_ms_spvn and gdt_convs_pred are heads of the training's extra losses: in the files, but never run here.
        for n, width in widths.items():
            self.add_module(f"conv_ms_spvn_{n}", nn.Conv2d(width, 1, 1))
        for n, width in widths.items():
            gate = nn.Sequential(nn.Conv2d(width, _GATE_CHANNELS, 3, padding=1), nn.BatchNorm2d(_GATE_CHANNELS))
            self.add_module(f"gdt_convs_{n}", gate.append(nn.ReLU()))
        for head in ("pred", "attn"):
            for n in widths:
                self.add_module(f"gdt_convs_{head}_{n}", nn.Sequential(nn.Conv2d(_GATE_CHANNELS, 1, 1)))

    def forward(self, x: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, 1, H, W) for the picture ``x`` (B, 3, H, W) and its four maps, finest first."""
        state = maps[3]
        for n in (4, 3, 2):
            state = self._block(n, x, state)
            gate = self._call(f"gdt_convs_attn_{n}", self._call(f"gdt_convs_{n}", state))
            state = state * torch.sigmoid(gate)
            finer = maps[n - 2]
            state = resize(state, (finer.shape[2], finer.shape[3])) + self._call(f"lateral_block{n}", finer)
        return self._logits(x, self._block(1, x, state))

    def _block(self, n: int, x: Tensor, state: Tensor) -> Tensor:
        tiles = image_tiles(x, (state.shape[2], state.shape[3]))
        return self._call(f"decoder_block{n}", torch.cat((state, self._call(f"ipt_blk{n + 1}", tiles)), dim=1))

    def _logits(self, x: Tensor, state: Tensor) -> Tensor:
        """``conv_out1`` of the last map at the picture's size beside ``ipt_blk1(x)``, without making either.

        It is one weighted sum of channels, so it may be taken before the resizing, and be merged into the two
        convolutions of ``ipt_blk1``: one channel is made at the picture's size instead of a hundred or more.
        """
        weight, bias = self.get_parameter("conv_out1.0.weight"), self.get_parameter("conv_out1.0.bias")
        state_weight, picture_weight = weight.tensor_split((state.shape[1],), dim=1)
        mix = picture_weight[..., 0, 0]  # (1, channels of ipt_blk1)
        merged = torch.einsum("oc,cikl->oikl", mix, self.get_parameter("ipt_blk1.conv_out.weight"))
        merged_bias = mix @ self.get_parameter("ipt_blk1.conv_out.bias") + bias
        first = self.get_parameter("ipt_blk1.conv1.weight"), self.get_parameter("ipt_blk1.conv1.bias")
        from_picture = two_convolutions(x, first, (merged, merged_bias))
        return resize(F.conv2d(state, state_weight), (x.shape[2], x.shape[3])) + from_picture

    def _call(self, name: str, x: Tensor) -> Tensor:
        x = self.get_submodule(name)(x)
        return x


def two_convolutions(x: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Two 3 × 3 convolutions (weight, bias), each padded with zeros, with nothing between: as one of 5 × 5.

    What the first makes at the picture's size is never held. Only the outermost pixels differ, where the second sees
    zeros and not what the first would make of them; they are made by both.

    Args:
        x: (B, C, H, W), at least 5 × 5.
        first: (M, C, 3, 3) and (M,).
        second: (O, M, 3, 3) and (O,).
    """

    def by_both(strip: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(strip, *first, padding=1), *second, padding=1)

    (weight1, bias1), (weight2, bias2) = first, second
    weight = torch.zeros((), dtype=x.dtype, device=x.device)
    for row in range(3):
        for column in range(3):
            part = torch.einsum("om,mcuv->ocuv", weight2[:, :, row, column], weight1)
            weight = weight + F.pad(part, (column, 2 - column, row, 2 - row))
    inside = F.conv2d(x, weight, bias2 + weight2.sum(dim=(2, 3)) @ bias1)  # (B, O, H - 4, W - 4)
    # Each strip is as wide as what its inner pixels see.
    top, bottom = by_both(x[:, :, :4])[:, :, :2], by_both(x[:, :, -4:])[:, :, -2:]
    left, right = by_both(x[..., :4])[:, :, 2:-2, :2], by_both(x[..., -4:])[:, :, 2:-2, -2:]
    return torch.cat((top, torch.cat((left, inside, right), dim=3), bottom), dim=2)


class PictureBranch(nn.Module):
    """Two convolutions with nothing between, on the picture's tiles."""

    def __init__(self, in_channels: int, out_channels: int, shape: BiRefNetShape) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, shape.inner_channels, 3, padding=1)
        self.conv_out = nn.Conv2d(shape.inner_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C', h, w) from the tiles (B, C, h, w)."""
        x = self.conv_out(self.conv1(x))
        return x


class Lateral(nn.Module):
    """A finer map of the backbone, mixed by a 1 × 1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x
