"""The backbone: Swin transformer, four maps from fine to coarse.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021.
Parameters carry the names of the official checkpoints. Tokens keep their two axes, (B, H, W, C), all the way.
"""

from __future__ import annotations

from itertools import product
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.birefnet.shape import BiRefNetShape

PATCH: Final = 4

_BLOCKED: Final = -100.0
"""Added to a score, it makes the weight 0 in float32. Finite, so that no precision meets inf - inf."""


class SwinBackbone(nn.Module):
    """Features of an image at 1/4, 1/8, 1/16 and 1/32 of its size."""

    def __init__(self, shape: BiRefNetShape) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(shape.embed_dim)
        dims = [shape.embed_dim * 2**i for i in range(4)]
        self.layers = nn.ModuleList(
            SwinStage(dims[i], shape.depths[i], shape.heads[i], shape.window, merge=i < 3) for i in range(4)
        )
        for i, dim in enumerate(dims):
            self.add_module(f"norm{i}", nn.LayerNorm(dim))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Four maps (B, C·2^i, ⌈H/4⌉/2^i, ⌈W/4⌉/2^i) of ``x`` (B, 3, H, W); odd sides are rounded up on the way."""
        tokens = self.patch_embed(x)
        maps: list[Tensor] = []
        for i, stage in enumerate(self.layers):
            # Only what leaves is normalised; the next stage goes on with the tokens as they are.
            leaving, tokens = stage(tokens)
            maps.append(self.get_submodule(f"norm{i}")(leaving).permute(0, 3, 1, 2).contiguous())
        return maps


class PatchEmbedding(nn.Module):
    """One token per 4 × 4 pixels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ⌈H/4⌉, ⌈W/4⌉, C) from (B, 3, H, W)."""
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % PATCH, 0, -height % PATCH))
        tokens: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return tokens


class SwinStage(nn.Module):
    """Blocks of one width, every second one with shifted windows; then, but for the last stage, a merging by two."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, *, merge: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SwinBlock(dim, heads, window, shift=(j % 2) * (window // 2)) for j in range(depth))
        self.downsample = PatchMerging(dim) if merge else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens after the blocks, (B, H, W, C) as given, and what the next stage starts from."""
        for block in self.blocks:
            x = block(x)
        return x, x if self.downsample is None else self.downsample(x)


class PatchMerging(nn.Module):
    """Each 2 × 2 tokens become one of twice the width; an odd side is padded with zeros first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ⌈H/2⌉, ⌈W/2⌉, 2C) from (B, H, W, C)."""
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = torch.cat((x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]), dim=3)
        merged: Tensor = self.reduction(self.norm(x))
        return merged


class SwinBlock(nn.Module):
    """Attention inside windows, then a two-layer perceptron, each on the normalised tokens and added to them."""

    def __init__(self, dim: int, heads: int, window: int, *, shift: int) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window, shift=shift)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) from (B, H, W, C)."""
        x = x + self._attend(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        # Padded after the norm: such a token is a zero vector, and the others do see it.
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        padded_hw = (x.shape[1], x.shape[2])
        # Windows are shifted even where the whole map is smaller than one.
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        x = from_windows(self.attn(to_windows(x, self.window)), padded_hw)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc2(F.gelu(self.fc1(x)))
        return x


class WindowAttention(nn.Module):
    """Attention among the tokens of each window, with a learned bias for every relative position.

    A shifted map is cut in two by its last row of windows and by its last column: there, tokens from opposite sides of
    the photo meet and must not see each other. So a window is masked in one of four ways, whatever the map's size, and
    a bias of four windows, made once, serves all of them.
    """

    _bias: Tensor | None

    def __init__(self, dim: int, heads: int, window: int, *, shift: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.shift = shift
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.relative_position_index: Tensor
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("_bias", None, persistent=False)
        self.register_load_state_dict_post_hook(_forget_bias)  # type: ignore[no-untyped-call]

    def forward(self, windows: Tensor) -> Tensor:
        """Windows (B, rows, columns, N, C), N = window², from the same."""
        qkv: Tensor = self.qkv(windows)
        qkv = qkv.view(*qkv.shape[:-1], 3, self.heads, -1)  # (B, rows, columns, N, 3, heads, d)
        bias = self._position_bias()
        mixed: Tensor = self.proj(self._by_kind(qkv, bias) if self.shift else _attention(qkv, bias[0]))
        return mixed

    def _by_kind(self, qkv: Tensor, bias: Tensor) -> Tensor:
        """Attention of the windows inside, in the last column, in the last row, in both; each kind with its bias."""
        rows = []
        for below, band in enumerate(qkv.tensor_split((qkv.shape[1] - 1,), dim=1)):
            parts = enumerate(band.tensor_split((band.shape[2] - 1,), dim=2))
            rows.append(torch.cat([_attention(part, bias[2 * below + beside]) for beside, part in parts], dim=2))
        return torch.cat(rows, dim=1)

    def _position_bias(self) -> Tensor:
        """(1 or 4, heads, N, N), kept once made: the windows inside, in the last column, in the last row, in both."""
        if self._bias is not None:
            return self._bias
        tokens = self.window**2
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.view(1, tokens, tokens, self.heads).permute(0, 3, 1, 2)
        if self.shift:
            blocked = shift_mask(self.window, self.shift, device=bias.device)[:, None]
            bias = bias + torch.zeros_like(blocked, dtype=bias.dtype).masked_fill_(blocked, _BLOCKED)
        bias = bias.contiguous()
        if not self.training and not bias.requires_grad:
            self._bias = bias
        return bias

    def train(self, mode: bool = True) -> WindowAttention:
        _forget_bias(self)
        return super().train(mode)


def _forget_bias(attention: WindowAttention, _incompatible_keys: object = None) -> None:
    attention._bias = None


def _attention(qkv: Tensor, bias: Tensor) -> Tensor:
    """(B, rows, columns, N, C) from (B, rows, columns, N, 3, heads, d); ``bias`` (heads, N, N) is added to scores."""
    batch, rows, columns, tokens, _, heads, depth = qkv.shape
    if rows * columns == 0:
        return qkv.new_empty(batch, rows, columns, tokens, heads * depth)
    q, k, v = qkv.permute(4, 0, 1, 2, 5, 3, 6).flatten(1, 3)  # each (windows, heads, N, d)
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
    return x.transpose(1, 2).reshape(batch, rows, columns, tokens, heads * depth)


def to_windows(x: Tensor, window: int) -> Tensor:
    """Windows (B, H/w, W/w, w², C) of a map (B, H, W, C) whose sides are multiples of ``window``."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(batch, height // window, width // window, window * window, channels)


def from_windows(windows: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """The map (B, H, W, C) that ``to_windows`` cut."""
    batch, rows, columns, _, channels = windows.shape
    x = windows.view(batch, rows, columns, size_hw[0] // rows, size_hw[1] // columns, channels)
    return x.transpose(2, 3).reshape(batch, *size_hw, channels)


def relative_position_index(window: int) -> Tensor:
    """int64 (w², w²): the row of the bias table for each pair of a window's tokens."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    dy = y.flatten()[:, None] - y.flatten() + window - 1
    dx = x.flatten()[:, None] - x.flatten() + window - 1
    return dy * (2 * window - 1) + dx


def shift_mask(window: int, shift: int, *, device: torch.device | None = None) -> Tensor:
    """bool (4, w², w²), True where a token must not see another.

    The four kinds of window of a shifted map: inside, in the last column, in the last row, in the corner of both.
    """
    wrapped = torch.arange(window, device=device) >= window - shift  # came from the photo's other side
    kinds = []
    for last_row, last_column in product((False, True), repeat=2):
        region = 2 * (wrapped & last_row)[:, None] + 1 * (wrapped & last_column)
        kinds.append(region.flatten()[:, None] != region.flatten())
    return torch.stack(kinds)
