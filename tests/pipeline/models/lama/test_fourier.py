"""Products with constant matrices give what the fast Fourier transform gives."""

from __future__ import annotations

import pytest
import torch

from pipeline.models.lama.fourier import RealFourier

SIZES_HW = [(5, 7), (6, 4), (2, 3), (3, 2), (4, 5), (25, 33), (64, 64), (48, 128)]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_a_spectrum_is_the_fast_transforms(size_hw: tuple[int, int]) -> None:
    x = noise(2, 3, *size_hw)
    expected = torch.fft.rfft2(x, norm="ortho")
    found = RealFourier(size_hw).spectrum(x)
    torch.testing.assert_close(found, torch.cat([expected.real, expected.imag], 2), rtol=0, atol=2e-6)


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_any_spectrum_comes_back_as_the_fast_transform_brings_it(size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    parts = noise(2, 3, 2, height, width // 2 + 1)  # no real map's: LaMa changes spectra as it likes
    expected = torch.fft.irfft2(torch.complex(parts[:, :, 0], parts[:, :, 1]), s=size_hw, norm="ortho")
    found = RealFourier(size_hw).map_of(parts.flatten(2, 3))
    torch.testing.assert_close(found, expected, rtol=0, atol=4e-6)


def test_the_matrices_are_no_part_of_a_state_dict() -> None:
    assert RealFourier((5, 7)).state_dict() == {}
