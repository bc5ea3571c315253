"""The Fourier unit does what its formula says, on odd sizes and in half precision too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.models.lama.ffc import FourierUnit


def unit(weights: torch.Tensor) -> FourierUnit:
    """A Fourier unit in evaluation mode with these (2 C, 2 C) weights, whose batch norm changes nothing."""
    result = FourierUnit(len(weights) // 2)
    with torch.no_grad():
        result.conv_layer.weight.copy_(weights[:, :, None, None])
    result.bn.running_var = torch.full((len(weights),), 1 - result.bn.eps)
    return result.eval()


@pytest.mark.parametrize("size_hw", [(5, 7), (6, 4), (2, 3), (4, 5)])
@torch.inference_mode()
def test_real_and_imaginary_parts_are_mixed_in_turns(size_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(4, 4))
    x = rng.normal(size=(2, 2, *size_hw))
    spectrum = np.fft.rfft2(x, norm="ortho")
    first, second = spectrum[:, 0], spectrum[:, 1]
    parts = np.stack([first.real, first.imag, second.real, second.imag])
    mixed = np.maximum(np.einsum("oi,ibhw->obhw", weights, parts), 0)
    expected = np.fft.irfft2(
        np.stack([mixed[0] + 1j * mixed[1], mixed[2] + 1j * mixed[3]], axis=1), s=size_hw, norm="ortho"
    )
    found = unit(torch.from_numpy(weights).float())(torch.from_numpy(x).float())
    assert found.shape == x.shape
    assert np.abs(found.numpy() - expected).max() < 2e-6


@torch.inference_mode()
def test_autocast_leaves_the_inside_in_float32() -> None:
    fourier = unit(torch.eye(6))
    x = torch.randn(1, 3, 6, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = fourier(x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, fourier(x.float()).bfloat16())
