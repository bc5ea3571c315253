"""What speed is measured against computes the same as what is measured."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.models.birefnet.deformable_convolution import deformable_convolution
from pipeline.models.birefnet.network import BiRefNet
from pipeline.models.birefnet.shape import LITE, TINY
from pipeline.models.lama.network import LamaGenerator
from pipeline.models.mobile_sam.network import MobileSam, MobileSamShape
from pipeline.models.mobile_sam.prompt_encoder import EMPTY, FOREGROUND, PADDING
from pipeline.models.mobile_sam.tiny_vit import TinyVitShape
from scripts.network_benchmarks.straightforward_birefnet import row_wise_convolution, straightforward_birefnet
from scripts.network_benchmarks.straightforward_lama import straightforward_lama
from scripts.network_benchmarks.straightforward_mobile_sam import straightforward_mobile_sam
from scripts.network_checks.birefnet import normalised
from tests.golden.goldens import give_synthetic_weights, open_golden

SMALL_SAM = MobileSamShape(
    frame_px=64,
    width=32,
    encoder=TinyVitShape(widths=(8, 8, 16, 16), depths=(1, 2, 1, 1), heads=(1, 1, 2, 2), windows=(3, 3, 4, 3)),
)


def picture(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("size_hw", [(2, 2), (5, 7), (6, 40)], ids=str)
def test_row_by_row_gives_the_same_deformable_convolution(kernel: int, size_hw: tuple[int, int]) -> None:
    taps = kernel**2
    x, weight = picture(2, 4, *size_hw), picture(5, 4, kernel, kernel) / math.sqrt(4 * taps)
    offset, modulation = 3 * picture(2, 2 * taps, *size_hw), picture(2, taps, *size_hw).sigmoid()
    expected = deformable_convolution(x, offset, modulation, weight)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(row_wise_convolution(x, offset, modulation, weight), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size_hw", [(64, 96), (96, 64)], ids=str)
@torch.inference_mode()
def test_birefnet_gives_the_same_logits(size_hw: tuple[int, int]) -> None:
    network = BiRefNet(TINY)
    give_synthetic_weights(network)
    plain = straightforward_birefnet(network)
    x = picture(2, 3, *size_hw)
    expected = network(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(plain(x), expected, rtol=0, atol=5e-4)


def test_birefnet_keeps_the_names_and_shares_the_weights() -> None:
    network = BiRefNet(TINY).eval()
    ours, plain = network.state_dict(), straightforward_birefnet(network).state_dict()
    assert list(ours) == list(plain)
    assert all(tensor.data_ptr() == plain[name].data_ptr() for name, tensor in ours.items())


@torch.inference_mode()
def test_mobile_sam_gives_the_same_embeddings_and_masks() -> None:
    network = MobileSam(SMALL_SAM)
    give_synthetic_weights(network)
    plain = straightforward_mobile_sam(copy.deepcopy(network))
    images = picture(2, 3, 64, 64)
    expected, found = network.encode(images), plain.encode(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    points = torch.tensor([[[9.0, 50.0], [0.0, 0.0]], [[30.0, 8.0], [0.0, 0.0]]])
    labels = torch.tensor([[FOREGROUND, PADDING], [FOREGROUND, EMPTY]])
    for one, other in zip(
        plain.decode(expected, points, labels), network.decode(expected, points, labels), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size_hw", [(32, 40), (40, 56)], ids=str)
@torch.inference_mode()
def test_lama_gives_the_same_picture(size_hw: tuple[int, int]) -> None:
    network = LamaGenerator(width=8, blocks=2)
    give_synthetic_weights(network)
    plain = straightforward_lama(copy.deepcopy(network))
    x = picture(2, 4, *size_hw)
    expected = network(x)
    assert expected.std() > 0.01
    torch.testing.assert_close(plain(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "make", "shortcut"),
    [
        (lambda: BiRefNet(TINY), straightforward_birefnet, "_RowWiseConvolution"),
        (lambda: MobileSam(SMALL_SAM), straightforward_mobile_sam, "_WindowAttention"),
        (lambda: LamaGenerator(width=8, blocks=1), straightforward_lama, "_FastFourierConv"),
    ],
    ids=["birefnet", "mobile_sam", "lama"],
)
def test_modules_really_are_replaced(network, make, shortcut) -> None:  # type: ignore[no-untyped-def]
    plain: nn.Module = make(network().eval())
    assert any(type(module).__name__ == shortcut for module in plain.modules())


@pytest.mark.slow
@torch.inference_mode()
def test_the_straightforward_lite_meets_the_official_logits() -> None:
    network = BiRefNet(LITE).requires_grad_(False)
    give_synthetic_weights(network)
    golden = open_golden("birefnet_lite").arrays
    logits = straightforward_birefnet(network)(normalised(golden["sq_image"]))
    torch.testing.assert_close(logits, torch.from_numpy(golden["sq_logits"]), rtol=0, atol=5e-4)
