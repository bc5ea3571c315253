"""The two-dimensional real Fourier transform as products with constant matrices, for one size of map.

Exporters and compilers that have no transform, or no complex numbers, take these instead. A map of LaMa's is small: at
64 x 64 the products of one direction are 0.8 million multiplications a channel.

All transforms are scaled by one over the root of the number of values, in both directions (``norm="ortho"``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class RealFourier(nn.Module):
    """``torch.fft.rfft2`` and ``irfft2`` for maps of ``size_hw``, without complex numbers.

    The matrices are made in float64 and kept as float32. They follow the module to its device but are no part of a
    state dict. A spectrum is a real tensor, (B, C, 2 h, w // 2 + 1): the h rows of its real part, then those of its
    imaginary part. Seen as (B, 2 C, h, w // 2 + 1), each channel's parts so follow each other, which is the order
    LaMa's weights want.
    """

    rows_in_re: Tensor
    rows_in_im: Tensor
    columns_in_re: Tensor
    columns_in_im: Tensor
    rows_out_re: Tensor
    rows_out_im: Tensor
    columns_out_re: Tensor
    columns_out_im: Tensor

    def __init__(self, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.size_hw = size_hw
        cos_h, sin_h = _waves(size_hw[0], size_hw[0])
        cos_w, sin_w = _waves(size_hw[1], size_hw[1] // 2 + 1)
        # exp(-it) = cos t - i sin t, first along the rows, then along the columns.
        self._keep("rows_in_re", cos_w)  # (w, w // 2 + 1)
        self._keep("rows_in_im", -sin_w)
        self._keep("columns_in_re", torch.cat([cos_h, -sin_h]))  # (2 h, h)
        self._keep("columns_in_im", torch.cat([sin_h, cos_h]))
        # exp(it), first along the columns, then along the rows. Half a spectrum was left out: a frequency stands for
        # its mirror image too, unless it is its own, where no imaginary part counts (its sines are 0).
        twice = torch.full((len(cos_w.T), 1), 2.0, dtype=torch.float64)
        twice[0] = 1
        if size_hw[1] % 2 == 0:
            twice[-1] = 1
        self._keep("columns_out_re", torch.cat([cos_h, -sin_h], 1))  # (h, 2 h)
        self._keep("columns_out_im", torch.cat([sin_h, cos_h], 1))
        self._keep("rows_out_re", twice * cos_w.T)  # (w // 2 + 1, w)
        self._keep("rows_out_im", -twice * sin_w.T)

    def spectrum(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, 2 h, w // 2 + 1)."""
        return self.columns_in_re @ (x @ self.rows_in_re) + self.columns_in_im @ (x @ self.rows_in_im)

    def map_of(self, spectrum: Tensor) -> Tensor:
        """The way back."""
        return (self.columns_out_re @ spectrum) @ self.rows_out_re + (self.columns_out_im @ spectrum) @ self.rows_out_im

    def _keep(self, name: str, matrix: Tensor) -> None:
        self.register_buffer(name, matrix.to(torch.float32).contiguous(), persistent=False)


def _waves(length: int, frequencies: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float64, (length, frequencies), scaled for one axis of an orthonormal transform."""
    # The product is reduced before it becomes an angle: large angles would cost digits.
    turns = torch.outer(torch.arange(length), torch.arange(frequencies)) % length
    angles = turns.to(torch.float64) * (2 * math.pi / length)
    scale = 1 / math.sqrt(length)
    return angles.cos() * scale, angles.sin() * scale
