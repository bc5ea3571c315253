"""The backbone's bookkeeping: sizes, batches, and the bias it keeps."""

from __future__ import annotations

import pytest
import torch

from pipeline.models.birefnet.shape import TINY
from pipeline.models.birefnet.swin import SwinBackbone, WindowAttention, from_windows, to_windows


@pytest.fixture
def backbone() -> SwinBackbone:
    torch.manual_seed(5)
    return SwinBackbone(TINY).eval().requires_grad_(False)


@pytest.mark.parametrize("size_hw", [(4, 4), (30, 50), (64, 96)], ids=str)
def test_maps_halve_and_odd_sides_are_rounded_up(backbone: SwinBackbone, size_hw: tuple[int, int]) -> None:
    height, width = ((side + 3) // 4 for side in size_hw)
    for i, features in enumerate(backbone(torch.randn(1, 3, *size_hw))):
        assert features.shape == (1, TINY.embed_dim * 2**i, height, width)
        assert features.isfinite().all()
        height, width = (height + 1) // 2, (width + 1) // 2


def test_images_of_a_batch_do_not_see_each_other(backbone: SwinBackbone) -> None:
    x = torch.randn(2, 3, 36, 60)
    for together, alone in zip(backbone(x), backbone(x[1:]), strict=True):
        torch.testing.assert_close(together[1:], alone)


def test_windows_are_put_back_where_they_were_cut() -> None:
    x = torch.randn(2, 6, 9, 5)
    assert to_windows(x, 3).shape == (2, 2, 3, 9, 5)
    assert torch.equal(from_windows(to_windows(x, 3), (6, 9)), x)


@pytest.mark.parametrize("shift", [0, 1])
def test_the_kept_bias_follows_new_weights(shift: int) -> None:
    attention = WindowAttention(8, 2, 3, shift=shift).eval().requires_grad_(False)
    windows = torch.randn(1, 2, 2, 9, 8)
    before = attention(windows)
    assert torch.equal(attention(windows), before)
    state = attention.state_dict()
    state["relative_position_bias_table"] = torch.randn(25, 2)
    attention.load_state_dict(state)
    assert not torch.allclose(attention(windows), before)


def test_tokens_from_opposite_sides_do_not_see_each_other() -> None:
    attention = WindowAttention(8, 2, 3, shift=1).eval().requires_grad_(False)
    windows = torch.randn(1, 2, 2, 9, 8)
    before = attention(windows).view(1, 2, 2, 3, 3, 8)
    windows.view(1, 2, 2, 3, 3, 8)[:, :, :, 2] += 1  # the row that the shift brought from the other side
    after = attention(windows).view(1, 2, 2, 3, 3, 8)
    assert torch.equal(after[:, 1, :, :2], before[:, 1, :, :2])
    assert not torch.allclose(after[:, 0, :, :2], before[:, 0, :, :2])
