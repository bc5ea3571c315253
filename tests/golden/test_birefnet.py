"""Our BiRefNet computes what the official one does, and has the same tensors; see ``birefnet/README.md``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.birefnet.image_tiles import image_tiles
from pipeline.models.birefnet.network import BiRefNet
from pipeline.models.birefnet.predictor import BiRefNetPredictor
from pipeline.models.birefnet.shape import LITE
from pipeline.models.birefnet.swin import relative_position_index
from pipeline.models.birefnet.weights import load_birefnet
from scripts.network_checks import birefnet as checks
from tests.golden import synthetic_weights

VARIANTS = ("birefnet", "birefnet_lite")
FOLDER = Path(__file__).parent

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def golden(variant: str) -> Arrays:
    with np.load(FOLDER / variant / "golden.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def lite_golden() -> Arrays:
    with np.load(FOLDER / "birefnet_lite" / "golden.npz") as arrays:
        return dict(arrays)


def hollow_network(variant: str) -> BiRefNet:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return BiRefNet(checks.SHAPES[variant]).eval()


def synthetic_state(variant: str, *prefixes: str) -> dict[str, Tensor]:
    """The goldens' weights, or those whose names begin so."""
    state = {}
    for name, hollow in hollow_network(variant).state_dict().items():
        if name.startswith(prefixes or ("",)):
            state[name] = torch.zeros(hollow.shape, dtype=hollow.dtype)
            if name.endswith("relative_position_index"):
                state[name] = relative_position_index(checks.SHAPES[variant].window)
    synthetic_weights.fill(state)
    return state


def part_of_network(variant: str, *prefixes: str) -> BiRefNet:
    """The network with the goldens' weights where their names begin so, and hollow elsewhere."""
    network = hollow_network(variant)
    network.load_state_dict(synthetic_state(variant, *prefixes), strict=False, assign=True)
    return network


def assert_met(ours: dict[str, Tensor], golden: Arrays) -> None:
    """Every stage within its tolerance; the message names each one that is not."""
    missed = {}
    for name, tensor in ours.items():
        assert tuple(tensor.shape) == golden[name].shape, name
        error = float(np.abs(tensor.numpy().astype(np.float64) - golden[name].astype(np.float64)).max())
        if not error <= checks.TOLERANCES[name]:
            missed[name] = error
    assert not missed


def test_tensors_have_the_manifests_names_order_shapes_and_types(variant: str) -> None:
    manifest = json.loads((FOLDER / variant / "manifest.json").read_text())
    network = hollow_network(variant)
    ours = [
        [name, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for name, tensor in network.state_dict().items()
    ]
    assert ours == manifest["state_dict"]
    assert sum(parameter.numel() for parameter in network.parameters()) == manifest["parameters"]


@torch.inference_mode()
def test_the_first_stage_of_the_backbone_meets_its_goldens(variant: str, golden: Arrays) -> None:
    network = part_of_network(variant, "bb.patch_embed.", "bb.layers.0.", "bb.norm0.")
    blocks = {f"bb.layers.0.{name}" for name in ("blocks.0", "blocks.1", "blocks.1.attn", "downsample")}
    with checks.recorded(network, {"bb.patch_embed", *blocks}) as calls:
        tokens = network.get_submodule("bb.patch_embed")(checks.normalised(golden["sq_image"]))
        for block in ("blocks.0", "blocks.1", "downsample"):
            tokens = network.get_submodule(f"bb.layers.0.{block}")(tokens)
    width = network.shape.embed_dim // LITE.embed_dim
    ours = checks.backbone_stages(calls, width)
    out = network.get_submodule("bb.norm0")(calls["bb.layers.0.blocks.1"][0][1]).permute(0, 3, 1, 2)
    ours["bb_x1_s"] = out[:, :: 8 * width, ::4, ::4]
    assert set(ours) == {"patch_embed_s", "l0b0_s", "l0b1_s", "l0b1attn_s", "ds0_s", "bb_x1_s"}
    assert_met({f"sq_{name}": tensor for name, tensor in ours.items()}, golden)


@torch.inference_mode()
def test_the_pyramid_of_deformable_convolutions_meets_its_goldens(variant: str, golden: Arrays) -> None:
    block = "squeeze_module.0"
    network = part_of_network(variant, *(f"{block}.{name}" for name in ("bn_in", "dec_att", "conv_out", "bn_out")))
    pyramid = [f"squeeze_{name}" for name in ("aspp1_s", "deform0_s", "deform1_s", "deform2_s", "gap", "att")]
    taps = {name: checks.TAPS[name] for name in pyramid}
    with checks.recorded(network, {tap.module for tap in taps.values()}) as calls:
        x = network.get_submodule(f"{block}.bn_in")(torch.from_numpy(golden["sq_squeeze_conv_in"]))
        for name in ("dec_att", "conv_out", "bn_out"):
            x = network.get_submodule(f"{block}.{name}")(F.relu(x) if name == "dec_att" else x)
    width = network.shape.embed_dim // LITE.embed_dim
    ours = {f"sq_{name}": tap.of(calls, width) for name, tap in taps.items()}
    assert_met(ours | {"sq_squeeze_out_s": x[:, :: 8 * width]}, golden)


@torch.inference_mode()
def test_picture_branches_meet_their_goldens(variant: str, golden: Arrays) -> None:
    network = part_of_network(variant, "decoder.ipt_blk")
    x = checks.normalised(golden["sq_image"])
    width = network.shape.embed_dim // LITE.embed_dim
    ours = {}
    places = ((5, 8, 4, 1), (4, 16, 8, 2), (3, 32, 8, 4), (2, 64, 8, 8), (1, 256, 4, 16))
    for n, side, channels, step in places:
        out = network.get_submodule(f"decoder.ipt_blk{n}")(image_tiles(x, (side, side)))
        ours[f"sq_ipt{n}_out_s"] = out[:, :: channels * width, ::step, ::step]
    assert_met(ours, golden)


def test_single_operations_meet_their_goldens(lite_golden: Arrays) -> None:
    assert_met(checks.parts(lite_golden), lite_golden)


@pytest.mark.slow
def test_every_stage_meets_its_golden(variant: str, golden: Arrays) -> None:
    network = load_birefnet(checks.SHAPES[variant], synthetic_state(variant))
    ours = checks.stages(network, golden)
    assert_met({name: torch.from_numpy(mine) for name, (mine, _) in ours.items()}, golden)
    unverified = set(golden) - set(ours)
    inputs = {name for name in unverified if name.endswith(("_image", "_x", "_offset", "_mask", "_weight"))}
    # What is left belongs to the steps around the network.
    assert all(name.startswith("pipe_") for name in unverified - inputs)


@pytest.mark.slow
def test_weights_for_the_older_order_of_tiles_are_loaded_as_such(lite_golden: Arrays) -> None:
    network = load_birefnet(LITE, synthetic_state("birefnet_lite"), tile_order="colours_last")
    with torch.inference_mode():
        logits = network(checks.normalised(lite_golden["sq_image"]))
    assert_met({"sq_logits_legacy_tile_order_s2": logits[:, :, ::2, ::2]}, lite_golden)


@pytest.mark.slow
def test_the_predictor_answers_with_the_official_alpha(lite_golden: Arrays) -> None:
    network = load_birefnet(LITE, synthetic_state("birefnet_lite"))
    predictor = BiRefNetPredictor(network, model_version="BiRefNet-lite", input_size_hw=(256, 256))
    (alpha,) = predictor.estimate_alpha([lite_golden["pipe_resized_256"]])
    assert np.abs(alpha[::2, ::2] - 255 * lite_golden["pipe_alpha_256_f32_s2"]).max() < 0.51
