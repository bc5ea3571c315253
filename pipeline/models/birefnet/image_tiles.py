"""The picture cut into tiles, and the order in which a weight file expects them.

The decoder shows its blocks the photo itself: cut into as many tiles as make one tile as large as the block's map, all
tiles stacked as channels. The official code stacked them in another order until 5 November 2024. The two networks are
the same up to the order of one convolution's input channels, so weights of the older kind are permuted when loaded
(``with_colours_first``) and there is one network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

TileOrder: TypeAlias = Literal["colours_first", "colours_last"]
"""Which index of a tile's channel runs slowest to fastest: colour, tile row, tile column; before November 2024, tile
column, tile row, colour."""

TILED_CONVOLUTIONS: Final = tuple(f"decoder.ipt_blk{n}.conv1.weight" for n in (5, 4, 3, 2))
"""The weights whose input channels are tiles. (``ipt_blk1`` sees one tile, the picture, in either order.)"""

_DECISIVE: Final = 0.1


def image_tiles(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(B, C·R·Q, h, w): the R × Q tiles of ``x`` (B, C, R·h, Q·w), each a contiguous part of the picture.

    Channel of colour c, tile row r, tile column q: (c·R + r)·Q + q.
    """
    batch, channels, height, width = x.shape
    h, w = size_hw
    x = x.view(batch, channels, height // h, h, width // w, w)
    return x.transpose(3, 4).reshape(batch, -1, h, w)


def with_colours_first(weight: Tensor) -> Tensor:
    """A weight (O, Q·R·3, k, k) made for ``colours_last``, with its input channels in the order of ``colours_first``.

    There are as many tile rows as columns at every place of the network.
    """
    side = math.isqrt(weight.shape[1] // 3)
    by_tile = weight.view(weight.shape[0], side, side, 3, *weight.shape[2:])  # (O, Q, R, 3, k, k)
    return by_tile.permute(0, 3, 2, 1, 4, 5).reshape(weight.shape)


def detect_tile_order(state: Mapping[str, Tensor]) -> TileOrder | None:
    """The order a weight file was trained with, judged from its weights; None where they do not tell.

    A filter looks at the three colours of a tile in much the same way, so the kernels of channels that are one tile's
    colours point in similar directions, those of unrelated channels do not. The order under which the colours agree
    better (``colour_agreement``) is taken, if it does so clearly. Random weights do not tell. The released files were
    not at hand when this was written: take it for a warning, and a photo for the judge.
    """
    first = colour_agreement(state, "colours_first")
    last = colour_agreement(state, "colours_last")
    if abs(first - last) < _DECISIVE:
        return None
    return "colours_first" if first > last else "colours_last"


def colour_agreement(state: Mapping[str, Tensor], order: TileOrder) -> float:
    """Mean cosine, in [-1, 1], between the kernels of a tile's three colours if the channels have this order."""
    means = []
    for name in TILED_CONVOLUTIONS:
        weight = state[name].float()
        if order == "colours_last":
            weight = with_colours_first(weight)
        kernels = weight.transpose(0, 1).reshape(3, weight.shape[1] // 3, -1)  # (3, tiles, O·k²)
        means.append(F.cosine_similarity(kernels, kernels.roll(1, dims=0), dim=2).mean())
    return float(torch.stack(means).mean())
