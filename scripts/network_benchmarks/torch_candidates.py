"""Engines on PyTorch that the ladder does not offer: the straightforward one, and those in bfloat16."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

from pipeline.models.birefnet.network import BiRefNet
from pipeline.models.birefnet.predictor import BiRefNetPredictor
from pipeline.models.lama.network import LamaGenerator
from pipeline.models.lama.predictor import LamaPredictor
from pipeline.models.mobile_sam.network import MobileSam
from pipeline.models.mobile_sam.predictor import MobileSamPredictor
from pipeline.models.torch_engines import network_of
from pipeline.models.weights import VerifiedWeights, load_weights
from scripts.network_benchmarks.straightforward_birefnet import straightforward_birefnet
from scripts.network_benchmarks.straightforward_lama import straightforward_lama
from scripts.network_benchmarks.straightforward_mobile_sam import straightforward_mobile_sam

Predictor: TypeAlias = BiRefNetPredictor | MobileSamPredictor | LamaPredictor


def straightforward(weights: VerifiedWeights, *, threads: int) -> Predictor:
    """The network as one would first write it, in eager float32 on the CPU."""
    torch.set_num_threads(threads)
    network = load_network(weights)
    if isinstance(network, BiRefNet):
        network = straightforward_birefnet(network)
    elif isinstance(network, MobileSam):
        network = straightforward_mobile_sam(network)
    else:
        network = straightforward_lama(network)
    return _predictor(network, weights, torch.float32)


def in_bfloat16(weights: VerifiedWeights, *, threads: int) -> Predictor:
    """Our network in eager bfloat16 on the CPU; of MobileSAM, the encoder."""
    torch.set_num_threads(threads)
    network = load_network(weights)
    if isinstance(network, MobileSam):
        network.image_encoder = _InBfloat16(network.image_encoder)  # type: ignore[assignment]
    return _predictor(network, weights, torch.bfloat16)


def load_network(weights: VerifiedWeights) -> BiRefNet | MobileSam | LamaGenerator:
    """The variant's network with its weights, float32, on the CPU, in ``eval`` mode."""
    with torch.device("meta"):
        network = network_of(weights.variant)
    load_weights(network, weights)
    assert isinstance(network, BiRefNet | MobileSam | LamaGenerator)
    return network.eval().requires_grad_(False)


def _predictor(
    network: BiRefNet | MobileSam | LamaGenerator, weights: VerifiedWeights, dtype: torch.dtype
) -> Predictor:
    version = weights.model_version
    if isinstance(network, MobileSam):
        return MobileSamPredictor(network, model_version=version)
    if isinstance(network, LamaGenerator):
        return LamaPredictor(network, model_version=version, precision=dtype)
    assert weights.variant.input_size_hw is not None
    return BiRefNetPredictor(
        network, model_version=version, input_size_hw=weights.variant.input_size_hw, dtype=dtype, max_images=1
    )


class _InBfloat16(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y: Tensor = self.network(x)
        return y.float()
