"""3x3 convolutions with a quarter of the multiplications, in float32.

A tile of 6 x 6 pixels gives 4 x 4 results. Pixels, weights and results change into another basis and back by small
constant matrices; in it a convolution is 36 products of channels per tile instead of 144. Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", CVPR 2016, F(4x4, 3x3).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

STRIP_PX: Final = 4096
"""So many pixels of a map are best changed at once: fewer would read the weights more often, more leave the cache."""

_STEP_PX: Final = 4
_TILE_PX: Final = 6

_PIXELS: Final = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float32,
)
_WEIGHTS: Final = torch.tensor(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64
).div(24)
_RESULTS: Final = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float32
)
_PIXELS_2D: Final = torch.kron(_PIXELS, _PIXELS)  # (36, 36)
_RESULTS_2D: Final = torch.kron(_RESULTS, _RESULTS)  # (16, 36)


def strips(size_hw: tuple[int, int]) -> list[slice]:
    """Lines of a map to change at once: whole tiles, about ``STRIP_PX`` pixels."""
    height, width = size_hw
    step = max(1, STRIP_PX // (_STEP_PX * width)) * _STEP_PX
    return [slice(top, min(top + step, height)) for top in range(0, height, step)]


def weights_to_tiles(weight: Tensor) -> Tensor:
    """A convolution's weight (C_out, C_in, 3, 3) in the other basis, float32, (36, C_in, C_out)."""
    tiles = torch.einsum("ua,vb,oiab->uvio", _WEIGHTS, _WEIGHTS, weight.double())
    return tiles.flatten(0, 1).float().contiguous()


def map_to_tiles(framed: Tensor) -> Tensor:
    """A float32 map with a pixel around it, (h + 2, w + 2, C), in the other basis: (36, tiles, C), rows of tiles."""
    height, width, channels = framed.shape
    # Up to whole tiles; what this adds reaches only results that are cut off.
    framed = F.pad(framed, (0, 0, 0, -(width - 2) % _STEP_PX, 0, -(height - 2) % _STEP_PX))
    tiles = framed.unfold(0, _TILE_PX, _STEP_PX).unfold(1, _TILE_PX, _STEP_PX)  # (y, x, C, 6, 6)
    tiles = tiles.permute(3, 4, 0, 1, 2).reshape(len(_PIXELS_2D), -1)
    return (_PIXELS_2D @ tiles).view(len(_PIXELS_2D), -1, channels)


def tiles_to_map(tiles: Tensor, size_hw: tuple[int, int], bias: Tensor) -> Tensor:
    """Products with weights, (36, tiles, C), as a map (h, w, C), plus each channel's bias (C,)."""
    height, width = size_hw
    down, across = -(-height // _STEP_PX), -(-width // _STEP_PX)
    channels = tiles.shape[2]
    results = (_RESULTS_2D @ tiles.view(len(_PIXELS_2D), -1)).view(_STEP_PX, _STEP_PX, down, across, channels)
    whole = torch.empty(down, _STEP_PX, across, _STEP_PX, channels)
    torch.add(results.permute(2, 0, 3, 1, 4), bias, out=whole)
    return whole.view(_STEP_PX * down, _STEP_PX * across, channels)[:height, :width].contiguous()
