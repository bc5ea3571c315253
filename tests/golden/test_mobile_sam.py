"""Our MobileSAM computes what the official one does; see ``mobilesam/README.md``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.models.mobile_sam.network import MobileSam
from scripts.network_checks import mobile_sam as checks
from tests.golden import synthetic_weights

FOLDER = Path(__file__).parent / "mobilesam"
ROUNDED_TOLERANCE = 3e-3
"""For what is decoded from the embedding in float16."""

Golden = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def network() -> MobileSam:
    network = checks.build("mobilesam")
    synthetic_weights.fill(network.state_dict())
    return network.eval()


@pytest.fixture(scope="module")
def golden() -> Golden:
    with np.load(FOLDER / "golden.npz") as arrays:
        return dict(arrays)


def assert_met(stages: checks.Stages, least_tolerance: float = 0.0) -> None:
    """Every stage within its tolerance; the message names each one that is not, the earliest first."""
    missed = {}
    for name, (ours, golden) in stages.items():
        assert ours.shape == golden.shape, name
        error = float(np.abs(ours.astype(np.float64) - golden.astype(np.float64)).max())
        if not error <= max(checks.TOLERANCES[name], least_tolerance):
            missed[name] = error
    assert not missed


def test_the_state_dict_is_the_official_one(network: MobileSam) -> None:
    official = json.loads((FOLDER / "manifest.json").read_text())["state_dict"]
    ours = [
        [name, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for name, tensor in network.state_dict().items()
    ]
    assert ours == official


def test_prompts_are_encoded_as_official(network: MobileSam, golden: Golden) -> None:
    assert_met(checks.prompt_stages(network, golden))


def test_prompts_of_different_lengths_decoded_together_match_each_alone(network: MobileSam, golden: Golden) -> None:
    embedding = torch.from_numpy(golden["image_embeddings_f16"]).float()
    assert_met(checks.decoder_stages(network, golden, embedding), ROUNDED_TOLERANCE)


@torch.inference_mode()
def test_the_first_stage_of_the_encoder_matches(network: MobileSam, golden: Golden) -> None:
    images = checks.network_input(network, golden)
    embedded = checks.ENCODER_TAPS["patch_embed_s"].of(network.image_encoder.patch_embed(images))
    stages = {"encoder_input_s16": images[:, :, ::16, ::16].numpy(), "patch_embed_s": embedded}
    assert_met({name: (ours, golden[name]) for name, ours in stages.items()})


@pytest.mark.slow
def test_every_stage_matches(network: MobileSam, golden: Golden) -> None:
    stages = checks.stages(network, golden)
    assert_met(stages)
    assert set(stages) == set(checks.TOLERANCES)
    inputs = {name for name in golden if name.endswith(("_points", "_labels"))}
    assert set(golden) - set(stages) == inputs | {"image", "predictor_image", "box", "image_embeddings_f16"}
