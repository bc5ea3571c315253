"""The decoder's shortcut against what it stands for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipeline.models.birefnet.decoder import two_convolutions


@pytest.mark.parametrize("size_hw", [(5, 5), (5, 9), (12, 7)], ids=str)
def test_two_convolutions_at_once_are_the_two_one_after_the_other(size_hw: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(2)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, first, second = numbers(2, 3, *size_hw), (numbers(6, 3, 3, 3), numbers(6)), (numbers(2, 6, 3, 3), numbers(2))
    expected = F.conv2d(F.conv2d(x, *first, padding=1), *second, padding=1)
    torch.testing.assert_close(two_convolutions(x, first, second), expected, rtol=0, atol=1e-12)
