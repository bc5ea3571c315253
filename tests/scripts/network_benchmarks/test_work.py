"""Counts against what one reckons by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.birefnet.deformable_convolution import DeformableConvolution, deformable_convolution
from pipeline.models.birefnet.network import BiRefNet
from pipeline.models.birefnet.shape import TINY
from pipeline.models.lama.ffc import FourierUnit
from scripts.network_benchmarks.peaks import peak_bytes_per_s, peak_flops_per_s, times_s
from scripts.network_benchmarks.swap import swap
from scripts.network_benchmarks.work import Work, attention_work, count_work, deformable_work

CPU = torch.device("cpu")


def count(make: Callable[[], nn.Module], *shapes: tuple[int, ...]) -> Work:
    return count_work(make, lambda: [torch.empty(shape) for shape in shapes])


def test_a_convolution() -> None:
    work = count(lambda: nn.Conv2d(3, 5, 3, padding=1, bias=False), (2, 3, 7, 11))
    pixels = 2 * 7 * 11
    assert work == Work(flops=2 * pixels * 5 * 3 * 9, values=pixels * 3 + 5 * 3 * 9 + pixels * 5)


def test_a_linear_layer() -> None:
    work = count(lambda: nn.Linear(6, 4), (10, 6))
    assert work == Work(flops=2 * 10 * 6 * 4, values=10 * 6 + 6 * 4 + 4 + 10 * 4)


def test_what_lies_between_products_is_free() -> None:
    assert count(lambda: nn.Sequential(nn.BatchNorm2d(3), nn.GELU()), (2, 3, 5, 5)) == Work()


def test_the_deformable_operator() -> None:
    # Two taps' worth of numbers by hand: 1 image, 3 channels in, 5 out, 3 x 3 taps, a map of 4 x 6.
    sampled = 3 * 9 * 24
    work = deformable_work(1, 3, 5, 3, (4, 6))
    assert work.flops == 8 * sampled + 2 * 5 * sampled
    assert work.values == 24 * 3 + 24 * 18 + 24 * 9 + 5 * 3 * 9 + 24 * 5


def test_the_deformable_module_is_its_operator_and_two_convolutions() -> None:
    work = count(lambda: nn.Sequential(DeformableConvolution(3, 5, 3)), (2, 3, 4, 6))
    offsets = Work(2 * 48 * 18 * 27, 48 * 3 + 18 * 27 + 18 + 48 * 18)
    modulation = Work(2 * 48 * 9 * 27, 48 * 3 + 9 * 27 + 9 + 48 * 9)
    assert work == deformable_work(2, 3, 5, 3, (4, 6)) + offsets + modulation


def test_its_products_are_those_that_really_run() -> None:
    x, weight = torch.ones(1, 3, 4, 6), torch.ones(5, 3, 3, 3)
    with FlopCounterMode(display=False) as counter:
        deformable_convolution(x, torch.zeros(1, 18, 4, 6), torch.ones(1, 9, 4, 6), weight)
    sampled = 3 * 9 * 24
    assert counter.get_total_flops() == deformable_work(1, 3, 5, 3, (4, 6)).flops - 8 * sampled


def test_attention_is_two_products_and_keeps_its_scores() -> None:
    class Network(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, k, k, attn_mask=torch.empty(1, 4, 7, 9))

    work = count(Network, (2, 4, 7, 8), (2, 4, 9, 8))
    assert work.flops == 2 * (2 * 4) * 7 * 9 * 8 * 2
    assert work.values == 2 * (2 * 4 * 7 * 8) + 2 * (2 * 4 * 9 * 8) + 4 * 7 * 9
    assert work == attention_work((2, 4, 7, 8), (2, 4, 9, 8), 4 * 7 * 9)


def test_a_fourier_unit_is_two_transforms_and_a_convolution() -> None:
    work = count(lambda: FourierUnit(3), (1, 3, 8, 16))
    transforms = 2 * 2.5 * (3 * 128) * math.log2(128)
    assert work.flops == pytest.approx(transforms + 2 * (8 * 9) * 6 * 6)


def test_a_batch_is_as_much_again_but_for_the_weights() -> None:
    one, two = (count(lambda: BiRefNet(TINY), (n, 3, 64, 64)) for n in (1, 2))
    assert two.flops == pytest.approx(2 * one.flops, rel=0.01)
    assert one.values < two.values < 2 * one.values


class InTheOpen(nn.Module):
    """A deformable convolution whose products PyTorch's counter can see."""

    def __init__(self, ours: DeformableConvolution) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        modulation = 2 * self.ours.modulator_conv(x).sigmoid()
        return deformable_convolution(x, self.ours.offset_conv(x), modulation, self.ours.regular_conv.weight)


def test_what_is_counted_without_computing_is_what_runs() -> None:
    network = BiRefNet(TINY).eval().requires_grad_(False)
    swap(network, DeformableConvolution, InTheOpen)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 64, 64))
    counted = count(lambda: BiRefNet(TINY), (1, 3, 64, 64)).flops
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_a_floor_is_the_work_at_the_peak() -> None:
    assert Work(6e9, 2e9).floor_s(3e9, 8e9, value_bytes=2) == (2.0, 0.5)


def test_peaks_of_this_machine_are_possible() -> None:
    assert 1e8 < peak_flops_per_s(CPU, torch.float32, side=256, repeats=3) < 1e14
    assert 1e8 < peak_bytes_per_s(CPU, megabytes=8, repeats=3) < 1e13


def test_the_first_call_does_not_count() -> None:
    calls: list[int] = []
    assert len(times_s(lambda: calls.append(1), CPU, repeats=3)) == 3
    assert len(calls) == 4
