"""The embedded network: one small U-shaped net for automatic foreground and for taps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 32
"""Height and width of the input are multiples of this."""

RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """Widths and depths; ``widths`` belong to strides 4, 8, 16 and 32. Multiples of 32 run fastest."""

    widths: tuple[int, int, int, int] = (64, 96, 160, 192)
    residual_blocks: tuple[int, int, int] = (1, 3, 3)
    attention_blocks: int = 3
    decoder_widths: tuple[int, int, int] = (64, 64, 96)
    head_width: int = 32


class EmbeddedNetwork(nn.Module):
    """Foreground logits of a photo, or of the thing tapped in it.

    The first convolution reads 4 x 4 patches, so nothing runs at full resolution: dense 3 x 3 convolutions over many
    channels and few places are what CPUs with matrix units do best. Attention at stride 32 sees the whole photo; the
    decoder adds the finer features back, and each of its levels is supervised.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: NetworkShape | None = None) -> None:
        super().__init__()
        shape = shape or NetworkShape()
        w4, w8, w16, w32 = shape.widths
        n4, n8, n16 = shape.residual_blocks
        d4, d8, d16 = shape.decoder_widths
        self.stage4 = nn.Sequential(_convolution(5 * 16, w4), *(ResidualBlock(w4) for _ in range(n4)))
        self.stage8 = nn.Sequential(_convolution(w4, w8, stride=2), *(ResidualBlock(w8) for _ in range(n8)))
        self.stage16 = nn.Sequential(_convolution(w8, w16, stride=2), *(ResidualBlock(w16) for _ in range(n16)))
        self.stage32 = nn.Sequential(
            _convolution(w16, w32, stride=2),
            *(AttentionBlock(w32, head_width=shape.head_width) for _ in range(shape.attention_blocks)),
        )
        self.merge16 = Merge(w32, w16, d16, convolutions=2)
        self.merge8 = Merge(d16, w8, d8, convolutions=2)
        self.merge4 = Merge(d8, w4, d4, convolutions=1)
        self.head4 = nn.Conv2d(d4, 16, 3, padding=1)  # a 4 x 4 patch of logits at each place
        self.head8 = nn.Conv2d(d8, 4, 1)
        self.head16 = nn.Conv2d(d16, 4, 1)
        mean = torch.tensor((*RGB_MEAN, 0.0, 0.0)) * 255
        std = torch.tensor((*RGB_STD, 1.0, 1.0)) * 255
        self.register_buffer("mean", mean.repeat_interleave(16).view(1, 80, 1, 1), persistent=False)
        self.register_buffer("std", std.repeat_interleave(16).view(1, 80, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits at full, quarter and eighth resolution; the coarser two serve training only.

        Args:
            pixels: (B, 5, H, W), 0..255, uint8 or float: RGB, positive taps, negative taps. Two empty tap maps mean
                "find the subject". H and W are multiples of 32.

        Returns:
            (B, 1, H, W), (B, 1, H / 4, W / 4), (B, 1, H / 8, W / 8).
        """
        patches = F.pixel_unshuffle(pixels, 4).contiguous(memory_format=torch.channels_last)  # (B, 80, H / 4, W / 4)
        x4 = self.stage4((patches - self.mean) / self.std)  # (B, w4, H / 4, W / 4)
        x8 = self.stage8(x4)  # (B, w8, H / 8, W / 8)
        x16 = self.stage16(x8)
        x32 = self.stage32(x16)
        y16 = self.merge16(x32, x16)
        y8 = self.merge8(y16, x8)
        y4 = self.merge4(y8, x4)
        return (
            F.pixel_shuffle(self.head4(y4), 4),
            F.pixel_shuffle(self.head8(y8), 2),
            F.pixel_shuffle(self.head16(y16), 2),
        )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside the identity (He et al., CVPR 2016). (B, C, H, W) to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width)
        self.second = _convolution(width, width, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = x + self.second(self.first(x))
        return F.relu(shortcut)


class AttentionBlock(nn.Module):
    """Self-attention over all places, then a two-layer perceptron. (B, C, H, W) to the same shape.

    Positions come from a depthwise convolution (Chu et al., "Conditional Positional Encodings", ICLR 2023), so that the
    block works at any input size.
    """

    def __init__(self, width: int, *, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.position = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position(x)
        batch, width, height, columns = x.shape
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, C)
        heads = self.query_key_value(self.attention_norm(tokens))
        heads = heads.view(batch, height * columns, 3, width // self.head_width, self.head_width)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, N, head width)
        weights = (q @ k.transpose(-2, -1) * self.head_width**-0.5).softmax(dim=-1)  # (B, heads, N, N)
        tokens = tokens + self.project((weights @ v).transpose(1, 2).reshape(batch, height * columns, width))
        tokens = tokens + self.perceptron(tokens)
        return cast(Tensor, tokens.transpose(1, 2).reshape(batch, width, height, columns))


class Merge(nn.Module):
    """A decoder level: coarse features doubled in size, plus the encoder's, both brought to ``width``."""

    def __init__(self, coarse_width: int, fine_width: int, width: int, *, convolutions: int) -> None:
        super().__init__()
        self.from_coarse = nn.Conv2d(coarse_width, width, 1)
        self.from_fine = nn.Conv2d(fine_width, width, 1)
        self.mix = nn.Sequential(*(_convolution(width, width) for _ in range(convolutions)))

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """(B, C, H, W) and (B, F, 2 H, 2 W) to (B, width, 2 H, 2 W)."""
        doubled = F.interpolate(self.from_coarse(coarse), scale_factor=2, mode="bilinear", align_corners=False)
        return cast(Tensor, self.mix(doubled + self.from_fine(fine)))


def _convolution(inputs: int, outputs: int, *, stride: int = 1, activate: bool = True) -> nn.Sequential:
    """3 x 3 convolution, batch norm, and ReLU unless ``activate`` is false."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]
    if activate:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
