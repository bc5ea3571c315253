"""MobileSAM's image encoder: a small vision transformer with convolutions at both ends.

Zhang et al., "Faster Segment Anything: Towards Lightweight SAM for Mobile Applications", 2023 (MobileSAM).
Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers", ECCV 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.mobile_sam.channel_norm import ChannelNorm
from pipeline.models.mobile_sam.derived import Derived


@dataclass(frozen=True)
class TinyVitShape:
    """Sizes of the encoder, one entry per stage; the defaults are the published vit_t.

    Attributes:
        widths: Channels. The first stage is convolutional, the others are transformers.
        depths: Blocks.
        heads: Attention heads; the first entry is not used.
        windows: Side of the attention windows in tokens; the first entry is not used.
        strides: Of the step to the next stage, so one entry less.
        classes: Outputs of the classifier that the checkpoint carries and segmentation never runs.
    """

    widths: tuple[int, int, int, int] = (64, 128, 160, 320)
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    heads: tuple[int, int, int, int] = (2, 4, 5, 10)
    windows: tuple[int, int, int, int] = (7, 7, 14, 7)
    strides: tuple[int, int, int] = (2, 2, 1)
    classes: int = 1000


class TinyVit(nn.Module):
    """Images (B, 3, H, W), normalised, to embeddings (B, embedding_width, H / 16, W / 16)."""

    def __init__(self, shape: TinyVitShape, embedding_width: int) -> None:
        super().__init__()
        widths = shape.widths
        self.patch_embed = PatchEmbed(widths[0])
        self.layers = nn.ModuleList()
        for i, width in enumerate(widths):
            blocks = [_block(shape, i) for _ in range(shape.depths[i])]
            is_last = i + 1 == len(widths)
            self.layers.append(Stage(blocks, None if is_last else Downsample(width, widths[i + 1], shape.strides[i])))
        self.norm_head = nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], shape.classes)
        self.neck = nn.Sequential(
            nn.Conv2d(widths[-1], embedding_width, 1, bias=False),
            ChannelNorm(embedding_width),
            nn.Conv2d(embedding_width, embedding_width, 3, padding=1, bias=False),
            ChannelNorm(embedding_width),
        )

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.patch_embed(images)
        for layer in self.layers:
            x = layer(x)
        embeddings: Tensor = self.neck(x)
        return embeddings


def _block(shape: TinyVitShape, stage: int) -> nn.Module:
    width = shape.widths[stage]
    return ConvBlock(width) if stage == 0 else TransformerBlock(width, shape.heads[stage], shape.windows[stage])


class ConvNorm(nn.Sequential):
    """A convolution without bias, then batch normalisation; no activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.add_module("c", convolution)
        self.add_module("bn", nn.BatchNorm2d(outputs))


class PatchEmbed(nn.Module):
    """Images to a map of a quarter of the side, by two strided convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, width // 2, 3, 2), nn.GELU(), ConvNorm(width // 2, width, 3, 2))

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.seq(images)
        return x


class Stage(nn.Module):
    """Blocks at one resolution and width, then the step to the next; maps (B, C, H, W) in and out."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        if self.downsample is not None:
            x = self.downsample(x)
        return x


class ConvBlock(nn.Module):
    """MBConv: widen, filter each channel, narrow; added to the input."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__()
        wide = width * expansion
        self.conv1 = ConvNorm(width, wide, 1)
        self.conv2 = ConvNorm(wide, wide, 3, groups=wide)
        self.conv3 = ConvNorm(wide, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(wide))


class Downsample(nn.Module):
    """The step between stages: a new width, and a smaller map where ``stride`` is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs, 1)
        self.conv2 = ConvNorm(outputs, outputs, 3, stride, groups=outputs)
        self.conv3 = ConvNorm(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return x


class TransformerBlock(nn.Module):
    """Window attention, a depthwise convolution that lets neighbouring windows meet, and an MLP."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(width, heads, window)
        self.mlp = Mlp(width, 4 * width)
        self.local_conv = ConvNorm(width, width, 3, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        # (B, H, W, C) in memory throughout: neither permutes nor reshapes move anything. With one axis for H and W
        # OpenVINO keeps it so, too: it takes tokens with two axes for pictures, and reorders them at every step.
        batch, width, *size_hw = x.shape
        tokens = x.permute(0, 2, 3, 1)
        tokens = tokens.flatten(1, 2) + self.attn(tokens).flatten(1, 2)
        x = self.local_conv(tokens.view(batch, *size_hw, width).permute(0, 3, 1, 2))
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)  # nothing else of the old tokens stays: no shortcut around it
        refined: Tensor = tokens + self.mlp(tokens)
        return refined.view(batch, *size_hw, width).permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Normalisation, then two linear maps with a GELU between; the channels are the last axis."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return x


class WindowAttention(Derived):
    """Self-attention inside square windows, with a learned bias for each distance between two tokens.

    The constant kept in eval mode is that bias, (1, heads, window², window²).
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def derive(self) -> Tensor:
        place = torch.arange(self.window, device=self.attention_biases.device)
        distance = (place[:, None] - place).abs()  # (w, w)
        index = distance[:, None, :, None] * self.window + distance[None, :, None, :]  # (y1, x1, y2, x2)
        return self.attention_biases[:, index.reshape(self.window**2, self.window**2)][None]

    def forward(self, x: Tensor) -> Tensor:
        """Attention of a map (B, H, W, C), of the same shape."""
        height, width = x.shape[1:3]
        mixed = merge_windows(self.attend(split_windows(x, self.window)), height, width)
        projected: Tensor = self.proj(mixed)
        return projected

    def attend(self, windows: Tensor) -> Tensor:
        """(N, window², C) window tokens, mixed within each window and not projected yet."""
        count, tokens, width = windows.shape
        # Each head's share of the channels holds its query, its key and its value, in this order.
        qkv: Tensor = self.qkv(self.norm(windows))
        q, k, v = qkv.view(count, tokens, self.heads, 3, width // self.heads).permute(3, 0, 2, 1, 4)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.constant().to(q.dtype)
        )  # (N, heads, window², C')
        return mixed.transpose(1, 2).reshape(count, tokens, width)


def split_windows(x: Tensor, window: int) -> Tensor:
    """A map (B, H, W, C), padded with zeros at the bottom and right, cut row by row: (B · windows, window², C)."""
    height, width, channels = x.shape[1:]
    rows, columns = -(-height // window), -(-width // window)
    x = F.pad(x, (0, 0, 0, columns * window - width, 0, rows * window - height))
    x = x.reshape(-1, rows, window, columns, window, channels).transpose(2, 3)
    return x.reshape(-1, window * window, channels)


def merge_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """The map (B, H, W, C) that ``split_windows`` cut, without the padding."""
    window, channels = round(windows.shape[1] ** 0.5), windows.shape[2]
    rows, columns = -(-height // window), -(-width // window)
    x = windows.reshape(-1, rows, columns, window, window, channels).transpose(2, 3)
    return x.reshape(-1, rows * window, columns * window, channels)[:, :height, :width]
