"""MobileSAM as one would first write it: attention is a product, a sum, a softmax and a product, in eager float32.

Layouts are those of the official code: channels first in the convolutions at the start, tokens from there on. It
computes what ``pipeline/models/mobile_sam/`` computes, on the same weights.
"""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.models.mobile_sam.network import MobileSam
from pipeline.models.mobile_sam.tiny_vit import WindowAttention, merge_windows, split_windows
from pipeline.models.mobile_sam.two_way_transformer import Attention
from scripts.network_benchmarks.swap import swap


def straightforward_mobile_sam(network: MobileSam) -> MobileSam:
    """``network`` itself, its attention replaced, in ``eval`` mode."""
    swap(network, WindowAttention, _WindowAttention)
    swap(network, Attention, _Attention)
    return network.eval().requires_grad_(False)


class _WindowAttention(nn.Module):
    bias: Tensor

    def __init__(self, ours: WindowAttention) -> None:
        super().__init__()
        self.heads, self.window = ours.heads, ours.window
        self.norm, self.qkv, self.proj = ours.norm, ours.qkv, ours.proj
        self.register_buffer("bias", ours.derive())

    def forward(self, x: Tensor) -> Tensor:
        """Attention of a map (B, H, W, C), of the same shape."""
        windows = split_windows(x, self.window)
        count, tokens, width = windows.shape
        qkv = self.qkv(self.norm(windows)).view(count, tokens, self.heads, 3, -1)
        q, k, v = qkv.permute(3, 0, 2, 1, 4)  # each (windows, heads, window², d)
        scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5 + self.bias
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(count, tokens, width)
        return merge_windows(self.proj(mixed), x.shape[1], x.shape[2])


class _Attention(nn.Module):
    def __init__(self, ours: Attention) -> None:
        super().__init__()
        self.heads = ours.heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = ours.q_proj, ours.k_proj, ours.v_proj, ours.out_proj

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        q, k, v = self._split(self.q_proj(q)), self._split(self.k_proj(k)), self._split(self.v_proj(v))
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask, -float("inf"))
        joined: Tensor = self.out_proj((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))
        return joined

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, n, C) -> (B, heads, n, C / heads)
