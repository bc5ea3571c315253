"""The network for serving computes what the network for reading computes."""

from __future__ import annotations

import pytest
import torch

from pipeline.models.lama.folded import FoldedLama
from pipeline.models.lama.network import LamaGenerator
from scripts.network_checks.lama import TOLERANCES, network_input
from tests.golden.goldens import give_synthetic_weights, open_golden


def small_network() -> LamaGenerator:
    network = LamaGenerator(width=4, blocks=2)
    give_synthetic_weights(network)
    return network


def noise(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(batch, 4, height, width, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("size_hw", [(16, 16), (40, 56), (64, 24)])
@torch.inference_mode()
def test_it_gives_the_same_picture_with_and_without_matrices(size_hw: tuple[int, int]) -> None:
    network, x = small_network(), noise(2, *size_hw)
    expected = network(x)
    assert expected.std() > 0.01  # or nothing would show
    torch.testing.assert_close(FoldedLama(network)(x), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(FoldedLama(network, size_hw)(x), expected, rtol=0, atol=1e-6)


@torch.inference_mode()
def test_no_number_is_complex_in_the_form_with_matrices() -> None:
    exported = torch.export.export(FoldedLama(small_network(), (40, 56)), (noise(1, 40, 56),))
    values = [value for node in exported.graph.nodes if isinstance(value := node.meta.get("val"), torch.Tensor)]
    assert len(values) > 100
    assert not [value for value in values if value.is_complex()]


@torch.inference_mode()
def test_it_changes_nothing_in_the_network_it_is_made_of() -> None:
    network = small_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    FoldedLama(network)(noise(1, 16, 24))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@torch.inference_mode()
def test_it_owns_its_weights() -> None:
    network, x = small_network(), noise(1, 16, 24)
    folded = FoldedLama(network)
    before = folded(x)
    for parameter in network.parameters():
        parameter.zero_()
    assert torch.equal(folded(x), before)
    assert not any(parameter.requires_grad for parameter in folded.parameters())


@torch.inference_mode()
def test_autocast_leaves_its_fourier_transforms_in_float32() -> None:
    folded, x = FoldedLama(small_network(), (40, 56)), noise(1, 40, 56)
    with torch.autocast("cpu", torch.bfloat16):
        found = folded(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, folded(x), rtol=0, atol=0.02)


@pytest.mark.slow
@torch.inference_mode()
def test_it_meets_the_original_networks_pictures() -> None:
    golden, network = open_golden("lama").arrays, LamaGenerator()
    give_synthetic_weights(network)
    for case, name, step in (("sq", "sq_output", 1), ("wide", "wide_output_s2", 2), ("odd", "odd_output_s2", 2)):
        x = network_input(golden, case)
        for size_hw in (None, (x.shape[2], x.shape[3])):
            found = FoldedLama(network, size_hw)(x)[:, :, ::step, ::step]
            expected = torch.from_numpy(golden[name])
            torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCES["*_output*"])
