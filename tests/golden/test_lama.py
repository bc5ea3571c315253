"""LaMa's network computes what the original computes, and has the same tensors."""

from __future__ import annotations

import pytest
import torch

from pipeline.models.lama.network import LamaGenerator
from scripts import verify_networks
from scripts.network_checks import lama as checks
from tests.golden.goldens import Golden, give_synthetic_weights, layout, open_golden


@pytest.fixture(scope="module")
def golden() -> Golden:
    return open_golden("lama")


def test_tensors_have_the_manifests_names_order_and_shapes(golden: Golden) -> None:
    with torch.device("meta"):
        network = LamaGenerator()
    assert layout(network) == golden.tensors
    assert sum(parameter.numel() for parameter in network.parameters()) == golden.parameters


def test_a_state_dict_made_from_the_manifest_loads_strictly(golden: Golden) -> None:
    with torch.device("meta"):
        network = LamaGenerator()
        tensors = {name: torch.empty(shape, dtype=getattr(torch, dtype)) for name, shape, dtype in golden.tensors}
    network.load_state_dict(tensors, strict=True, assign=True)
    del tensors["model.34.bias"]
    with pytest.raises(RuntimeError, match=r"model\.34\.bias"):
        network.load_state_dict(tensors, strict=True, assign=True)


def test_the_first_layers_meet_their_goldens(golden: Golden) -> None:
    network = LamaGenerator(blocks=1)  # synthetic weights follow from names: these are the whole network's
    give_synthetic_weights(network)
    results = verify_networks.judge("lama", checks.early_stages(network, golden.arrays), checks.TOLERANCES)
    assert len(results) == 1 + len(checks.EARLY_TAPS)
    assert [result for result in results if not result.passed] == []


@pytest.mark.slow
def test_every_stage_meets_its_golden(golden: Golden) -> None:
    results = verify_networks.verify("lama")
    assert [result for result in results if not result.passed] == []
    verified = {result.stage for result in results}
    inputs = {name for name in golden.arrays if name.endswith(("_image", "_mask"))}
    assert set(golden.arrays) - verified - inputs == {"pipe_result_f32_s2"}  # the picture before it becomes uint8
