"""Tiles are parts of the picture, and weights tell which order of them they were trained with."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.birefnet.image_tiles import (
    TILED_CONVOLUTIONS,
    TileOrder,
    colour_agreement,
    detect_tile_order,
    image_tiles,
    with_colours_first,
)

SIDES = (32, 16, 8, 4)


def weights(order: TileOrder | Literal["none"]) -> dict[str, Tensor]:
    """Kernels that look at the three colours of a tile alike under ``order``; ``none``: at random."""
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, side in zip(TILED_CONVOLUTIONS, SIDES, strict=True):
        noise = torch.randn(8, side, side, 3, 3, 3, generator=generator)  # (O, tile row, tile column, colour, k, k)
        grey = torch.randn(8, side, side, 1, 3, 3, generator=generator)
        kernels = noise if order == "none" else grey + noise
        axes = (0, 3, 1, 2, 4, 5) if order == "colours_first" else (0, 2, 1, 3, 4, 5)
        state[name] = kernels.permute(axes).flatten(1, 3)
    return state


def test_a_channel_is_one_colour_of_a_contiguous_tile() -> None:
    x = torch.randn(2, 3, 4 * 5, 4 * 7)
    tiles = image_tiles(x, (5, 7))
    assert tiles.shape == (2, 48, 5, 7)
    colour, row, column = 1, 2, 3
    expected = x[:, colour, 5 * row : 5 * (row + 1), 7 * column : 7 * (column + 1)]
    assert torch.equal(tiles[:, (colour * 4 + row) * 4 + column], expected)


def test_permuted_weights_make_the_same_of_the_newer_order() -> None:
    x = torch.randn(1, 3, 4 * 5, 4 * 7, dtype=torch.float64)
    weight = torch.randn(2, 48, 3, 3, dtype=torch.float64)
    older = torch.stack(
        [
            x[0, colour, 5 * row : 5 * (row + 1), 7 * column : 7 * (column + 1)]
            for column in range(4)
            for row in range(4)
            for colour in range(3)
        ]
    )[None]
    expected = F.conv2d(older, weight)
    torch.testing.assert_close(F.conv2d(image_tiles(x, (5, 7)), with_colours_first(weight)), expected)


@pytest.mark.parametrize("order", ["colours_first", "colours_last"])
def test_the_order_is_detected(order: TileOrder) -> None:
    state = weights(order)
    assert detect_tile_order(state) == order
    assert colour_agreement(state, order) == pytest.approx(0.5, abs=0.05)


def test_random_weights_do_not_tell() -> None:
    assert detect_tile_order(weights("none")) is None
