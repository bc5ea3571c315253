"""What a network must compute and move at the least, counted without computing it.

Counted are convolutions, matrix products, attention, deformable convolutions and Fourier transforms: what lies between
is taken to be done on the way, while the values are at hand. Each of them reads its inputs and writes its result once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pipeline.models.birefnet.deformable_convolution import DeformableConvolution
from scripts.network_benchmarks.swap import swap

_TRANSFORMS: Final = (torch.ops.aten._fft_r2c, torch.ops.aten._fft_c2r)
_SAMPLE_FLOPS: Final = 8
"""Four corners, each times its share: 4 products and 3 sums; then one product with the modulation."""


@dataclass(frozen=True)
class Work:
    """Operations and traffic.

    Attributes:
        flops: Additions and multiplications; a product of two values that is added up counts twice.
        values: Numbers read and written, weights among them.
    """

    flops: float = 0
    values: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.values + other.values)

    def floor_s(self, flops_per_s: float, bytes_per_s: float, *, value_bytes: int) -> tuple[float, float]:
        """The shortest time, in seconds: by operations, and by traffic."""
        return self.flops / flops_per_s, self.values * value_bytes / bytes_per_s


def deformable_work(batch: int, in_channels: int, out_channels: int, kernel: int, size_hw: tuple[int, int]) -> Work:
    """Of the operator itself; the convolutions that make its offsets and modulation are counted as such.

    Every tap's values are sampled and meet the weights where they are: they are not written down in between.
    """
    pixels, taps = size_hw[0] * size_hw[1], kernel**2
    sampled = batch * in_channels * taps * pixels
    flops = _SAMPLE_FLOPS * sampled + 2 * out_channels * sampled
    read = batch * pixels * (in_channels + 3 * taps) + out_channels * in_channels * taps
    return Work(flops, read + batch * pixels * out_channels)


def attention_work(q: Sequence[int], k: Sequence[int], mask_values: int = 0) -> Work:
    """Of queries (…, L, d) on keys and values (…, S, d); scores are not written down, the softmax is not counted."""
    pairs = math.prod(q[:-1]) * k[-2]
    return Work(4 * pairs * q[-1], 2 * math.prod(q) + 2 * math.prod(k) + mask_values)


def fourier_work(values: int, points: int) -> Work:
    """Of real transforms, (…, points) values in all: half of the usual 5 n log2 n of complex ones, there or back."""
    return Work(2.5 * values * math.log2(points), 2 * values)


def count_work(
    make: Callable[[], nn.Module], inputs: Callable[[], Sequence[Tensor]], *, method: str = "forward"
) -> Work:
    """What a method of a network does with these inputs. Nothing is computed and no memory is taken.

    Args:
        make: Makes the network, whatever its weights.
        inputs: Makes what the method takes.
        method: Name of the method.
    """
    total = _Total()
    with FakeTensorMode(), torch.no_grad():
        network = make().eval()
        swap(network, DeformableConvolution, lambda ours: _CountedConvolution(ours, total))
        given = inputs()
        with _Products(total), _Attention(total):
            getattr(network, method)(*given)
    return total.work


class _Total:
    def __init__(self) -> None:
        self.work = Work()


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the work of every product and transform."""

    def __init__(self, total: _Total) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._total = total

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in _TRANSFORMS:
            real = out if packet is torch.ops.aten._fft_c2r else args[0]
            self._total.work += fourier_work(real.numel(), math.prod(real.shape[dim] for dim in args[1]))
        elif packet in flop_registry:
            flops = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
            self._total.work += Work(flops, sum(t.numel() for t in (*args, out) if isinstance(t, Tensor)))
        return out


class _Attention(TorchFunctionMode):
    """Counts attention as one operator, whatever it is made of on this device."""

    def __init__(self, total: _Total) -> None:
        super().__init__()
        self._total = total

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q, k, v = args[:3]
        mask = (kwargs or {}).get("attn_mask")
        self._total.work += attention_work(q.shape, k.shape, 0 if mask is None else mask.numel())
        return q.new_empty(*q.shape[:-1], v.shape[-1])


class _CountedConvolution(nn.Module):
    """A deformable convolution that is counted by its formula, and gives a tensor of the right shape."""

    def __init__(self, ours: DeformableConvolution, total: _Total) -> None:
        super().__init__()
        self._ours, self._total = ours, total

    def forward(self, x: Tensor) -> Tensor:
        self._ours.offset_conv(x)
        self._ours.modulator_conv(x)
        outputs, _, _, kernel = self._ours.regular_conv.weight.shape
        batch, channels, height, width = x.shape
        self._total.work += deformable_work(batch, channels, outputs, kernel, (height, width))
        return x.new_empty(batch, outputs, height, width)
