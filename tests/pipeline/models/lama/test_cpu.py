"""The network's form for CPUs gives the network's pictures: the same in float32, nearly so in bfloat16."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipeline.models.lama.cpu import CpuLama, quickest_dtype
from pipeline.models.lama.network import LamaGenerator, masked_input
from scripts.network_checks.lama import TOLERANCES, network_input
from tests.golden.goldens import give_synthetic_weights, open_golden

PHOTO = Path(__file__).resolve().parents[3] / "data" / "astronaut.jpg"


def small_network() -> LamaGenerator:
    network = LamaGenerator(width=4, blocks=2)
    give_synthetic_weights(network)
    return network


def noise(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(batch, 4, height, width, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("size_hw", [(16, 16), (40, 56), (64, 24), (200, 264), (16, 136), (520, 600)])
@torch.inference_mode()
def test_in_float32_it_gives_the_same_pictures_at_any_size(size_hw: tuple[int, int]) -> None:
    network, x = small_network(), noise(2, *size_hw)
    expected = network(x)
    assert expected.std() > 0.01  # or nothing would show
    torch.testing.assert_close(CpuLama(network, torch.float32)(x), expected, rtol=0, atol=2e-6)


def test_in_bfloat16_it_gives_nearly_the_same_pictures() -> None:
    network, x = small_network(), noise(1, 40, 56)
    found = CpuLama(network, torch.bfloat16)(x)
    assert found.dtype == torch.float32
    with torch.inference_mode():
        torch.testing.assert_close(found, network(x), rtol=0, atol=0.01)


def test_one_network_takes_one_size_after_the_other() -> None:
    network = small_network()
    form = CpuLama(network, torch.float32)
    for size_hw in ((16, 24), (24, 16), (16, 24)):
        x = noise(1, *size_hw)
        with torch.inference_mode():
            torch.testing.assert_close(form(x), network(x), rtol=0, atol=2e-6)


def test_it_changes_neither_the_network_it_is_made_of_nor_what_it_reads() -> None:
    network, x = small_network(), noise(1, 16, 24)
    weights, values = {name: tensor.clone() for name, tensor in network.state_dict().items()}, x.clone()
    CpuLama(network, torch.bfloat16)(x)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(x, values)


@pytest.mark.parametrize(
    ("abilities", "expected"),
    [
        ({"avx512_f": True, "avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, torch.float32),
        ({"architecture": "aarch64"}, torch.float32),
    ],
)
def test_it_computes_in_bfloat16_only_where_the_cpu_has_tiles_for_it(
    abilities: dict[str, object], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    assert quickest_dtype() == expected
    assert CpuLama(small_network()).dtype == expected


@pytest.mark.slow
def test_in_float32_it_meets_the_original_networks_pictures() -> None:
    golden, network = open_golden("lama").arrays, LamaGenerator()
    give_synthetic_weights(network)
    form = CpuLama(network, torch.float32)
    for case, name, step in (("sq", "sq_output", 1), ("wide", "wide_output_s2", 2), ("odd", "odd_output_s2", 2)):
        found = form(network_input(golden, case))[:, :, ::step, ::step]
        torch.testing.assert_close(found, torch.from_numpy(golden[name]), rtol=0, atol=TOLERANCES["*_output*"])


@pytest.mark.slow
def test_a_hole_in_a_photo_is_filled_alike_in_bfloat16() -> None:
    pixels = cv2.cvtColor(cv2.imread(str(PHOTO)), cv2.COLOR_BGR2RGB)[:384, :384]
    hole = np.zeros((384, 384), np.bool_)
    hole[100:300, 120:250] = True
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    x = masked_input(image, torch.from_numpy(hole)[None, None].float())
    network = LamaGenerator()
    give_synthetic_weights(network)
    with torch.inference_mode():
        expected = network(x)[0, :, hole]
    assert expected.std() > 0.1
    error = (CpuLama(network, torch.bfloat16)(x)[0, :, hole] - expected).square().mean()
    assert -10 * error.log10() > 45
