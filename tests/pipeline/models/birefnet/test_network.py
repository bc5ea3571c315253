"""The whole network at a tiny size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipeline.errors import ShapeMismatch
from pipeline.models.birefnet.decoder import resize
from pipeline.models.birefnet.network import BiRefNet
from pipeline.models.birefnet.shape import TINY


@pytest.fixture
def network() -> BiRefNet:
    torch.manual_seed(2)
    return BiRefNet(TINY).eval().requires_grad_(False)


def test_images_of_a_batch_do_not_see_each_other(network: BiRefNet) -> None:
    x = torch.randn(2, 3, 64, 96)
    logits = network(x)
    assert logits.shape == (2, 1, 64, 96)
    torch.testing.assert_close(logits[1:], network(x[1:]), rtol=0, atol=1e-5)


def test_a_side_must_be_a_multiple_of_32(network: BiRefNet) -> None:
    with pytest.raises(ShapeMismatch, match="64 x 90"):
        network(torch.zeros(1, 3, 64, 90))


def test_the_head_is_that_of_all_channels_side_by_side(network: BiRefNet) -> None:
    decoder = network.decoder
    x, last = torch.randn(2, 3, 32, 64), torch.randn(2, TINY.channels[3] // 2, 8, 16)
    picture = decoder.get_submodule("ipt_blk1")(x)
    expected = decoder.conv_out1(torch.cat((resize(last, (32, 64)), picture), dim=1))
    torch.testing.assert_close(decoder._logits(x, last), expected, rtol=0, atol=1e-5)


def test_resizing_keeps_the_corners() -> None:
    x = torch.randn(1, 2, 5, 7)
    assert torch.equal(resize(x, (5, 7)), x)
    assert torch.equal(resize(x, (9, 13))[..., ::2, ::2], x)
    torch.testing.assert_close(resize(x, (3, 4)), F.interpolate(x, (3, 4), mode="bilinear", align_corners=True))
