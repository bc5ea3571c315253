"""SAM's two-way transformer: prompt tokens and image pixels read each other in turn.

Kirillov et al., "Segment Anything", ICCV 2023, appendix A. L is the number of pixels of the image embedding, T of
tokens, P of prompts. Where all prompts are about one image its first batch axis is 1, not P: what the first layer
works out of the image alone is then worked out once.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class TwoWayTransformer(nn.Module):
    """Layers of ``TwoWayLayer``, then a last look of the tokens at the image."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayLayer(width, heads, is_first=i == 0) for i in range(depth))
        self.final_attn_token_to_image = Attention(width, width // 2, heads)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, image: Tensor, image_code: Tensor, key_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (P, T, C) and image (P, L, C), each with what it learned of the other.

        Args:
            tokens: (P, T, C); as given, they are also the tokens' positional code in every layer.
            image: (P or 1, L, C).
            image_code: Positional code of the image, (1, L, C).
            key_mask: bool, (P, 1, 1, T); False marks tokens that nothing attends to.
        """
        token_code = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, token_code, image, image_code, key_mask)
        read = self.final_attn_token_to_image(tokens + token_code, image + image_code, image)
        tokens = self.norm_final_attn(tokens + read)
        return tokens, image


class TwoWayLayer(nn.Module):
    """Tokens attend to each other, then to the image, pass an MLP, and the image attends to the tokens."""

    def __init__(self, width: int, heads: int, *, is_first: bool) -> None:
        super().__init__()
        self.is_first = is_first
        self.self_attn = Attention(width, width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, width // 2, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 8 * width)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, width // 2, heads)

    def forward(
        self, tokens: Tensor, token_code: Tensor, image: Tensor, image_code: Tensor, key_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.is_first:  # the tokens are still their own code, and there is no shortcut
            tokens = self.self_attn(tokens, tokens, tokens, key_mask)
        else:
            placed = tokens + token_code
            tokens = tokens + self.self_attn(placed, placed, tokens, key_mask)
        tokens = self.norm1(tokens)

        placed_image = image + image_code
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_code, placed_image, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        read = self.cross_attn_image_to_token(placed_image, tokens + token_code, tokens, key_mask)
        image = self.norm4(image + read)
        return tokens, image


class Attention(nn.Module):
    """Attention in ``inner`` channels between inputs of ``width``; a batch axis of 1 is shared by all."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        q, k, v = self._split(self.q_proj(q)), self._split(self.k_proj(k)), self._split(self.v_proj(v))
        if q.shape[0] == 1:
            q = q.expand(k.shape[0], -1, -1, -1)
        elif k.shape[0] == 1:
            k, v = k.expand(q.shape[0], -1, -1, -1), v.expand(q.shape[0], -1, -1, -1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
        joined: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return joined

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, n, C) -> (B, heads, n, C / heads)


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lin2(F.relu(self.lin1(x)))
        return x
