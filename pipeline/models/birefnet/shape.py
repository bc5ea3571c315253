"""The sizes that tell BiRefNet's variants apart; all else is one definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class BiRefNetShape:
    """Widths and depths of one variant.

    Attributes:
        embed_dim: Channels of the backbone's first stage; each later stage doubles them.
        depths: Blocks of the four stages.
        heads: Attention heads of the four stages.
        window: Side of an attention window, in tokens.
        inner_channels: Channels inside every block of the decoder.
        branch_channels: Channels of each branch of a decoder block's pyramid.
    """

    embed_dim: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window: int
    inner_channels: int = 64
    branch_channels: int = 256

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four maps that the decoder gets, coarsest first; both scales' features side by side."""
        c = 2 * self.embed_dim
        return 8 * c, 4 * c, 2 * c, c


GENERAL: Final = BiRefNetShape(embed_dim=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12)
"""Swin-L: BiRefNet general, and the variants trained from it (portrait, matting, HR, …)."""

LITE: Final = BiRefNetShape(embed_dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7)
"""Swin-T: BiRefNet lite."""

TINY: Final = BiRefNetShape(
    embed_dim=8, depths=(2, 2, 2, 2), heads=(1, 1, 2, 2), window=3, inner_channels=8, branch_channels=16
)
"""For tests: every part of the network at a size that runs at once. No weights of it exist."""
