"""Which part of each network is compiled, and for which input."""

from __future__ import annotations

from torch import nn

from pipeline.models import torch_engines
from pipeline.models.weights import VerifiedWeights


def compilable(weights: VerifiedWeights) -> tuple[nn.Module, tuple[int, int, int, int]]:
    """What is compiled for these weights, ready for inference on the CPU in float32, and the shape of its input.

    BiRefNet whole; of MobileSAM the image encoder: its decoder takes any number of prompts and is quick.

    Raises:
        ModelNotLoaded: The file does not hold that network.
    """
    variant = weights.variant
    if variant.network == "birefnet":
        assert variant.input_size_hw is not None
        return torch_engines.birefnet(weights), (1, 3, *variant.input_size_hw)
    if variant.network == "mobile_sam":
        network = torch_engines.mobile_sam(weights)
        return network.image_encoder, (1, 3, network.shape.frame_px, network.shape.frame_px)
    raise NotImplementedError(variant.network)
