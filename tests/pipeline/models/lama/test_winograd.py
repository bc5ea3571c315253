"""A convolution in tiles is the convolution."""

from __future__ import annotations

import pytest
import torch

from pipeline.models.lama.winograd import STRIP_PX, map_to_tiles, strips, tiles_to_map, weights_to_tiles


@pytest.mark.parametrize("size_hw", [(4, 4), (8, 12), (5, 7), (2, 3), (6, 9), (64, 33)])
def test_it_gives_what_the_convolution_gives(size_hw: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(6)
    framed = torch.randn(size_hw[0] + 2, size_hw[1] + 2, 5, generator=generator)
    weight = torch.randn(3, 5, 3, 3, generator=generator)
    bias = torch.randn(3, generator=generator)
    expected = torch.conv2d(framed.permute(2, 0, 1)[None].double(), weight.double(), bias.double())
    found = tiles_to_map(map_to_tiles(framed) @ weights_to_tiles(weight), size_hw, bias)
    assert found.shape == (*size_hw, 3)
    torch.testing.assert_close(found.double(), expected[0].permute(1, 2, 0), rtol=0, atol=2e-4)


@pytest.mark.parametrize("size_hw", [(64, 64), (128, 128), (5, 7), (97, 130), (6, 40_000)])
def test_strips_cover_a_map_in_whole_tiles(size_hw: tuple[int, int]) -> None:
    found = strips(size_hw)
    assert [line for lines in found for line in range(lines.start, lines.stop)] == list(range(size_hw[0]))
    assert all(lines.start % 4 == 0 for lines in found)
    assert all((lines.stop - lines.start) * size_hw[1] <= max(STRIP_PX, 4 * size_hw[1]) for lines in found)
