"""The networks on PyTorch: verified weights in, an engine on its device out.

Precision on a GPU: BiRefNet runs in half, which its published weights are stored in. MobileSAM's encoder and LaMa's
Fourier transforms do not bear that; both stay in float32, where cuDNN's convolutions use TF32. On a CPU LaMa has a form
of its own, whose convolutions are bfloat16 where that is much quicker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeVar

import torch
from torch import nn

from pipeline.errors import ModelNotLoaded
from pipeline.models.birefnet.network import BiRefNet
from pipeline.models.birefnet.predictor import BiRefNetPredictor
from pipeline.models.birefnet.shape import GENERAL, LITE, BiRefNetShape
from pipeline.models.birefnet.weights import load_birefnet
from pipeline.models.files import sha256_of
from pipeline.models.guarded_engines import GuardedInpainting, GuardedMatting, GuardedSegmentation
from pipeline.models.lama.cpu import CpuLama
from pipeline.models.lama.network import LamaGenerator
from pipeline.models.lama.predictor import LamaPredictor
from pipeline.models.memory import memory_of
from pipeline.models.mobile_sam.network import MobileSam
from pipeline.models.mobile_sam.predictor import MobileSamPredictor
from pipeline.models.weights import VerifiedWeights, load_weights, read_tensors
from pipeline.models.zoo import Variant
from pipeline.protocols import InpaintingEngine, MattingEngine, SegmentationEngine

Engine = TypeVar("Engine")

SHAPES: Final[dict[str, BiRefNetShape]] = {"swin_v1_l": GENERAL, "swin_v1_t": LITE}
"""BiRefNet's sizes by the backbone that the zoo's row names."""


def network_of(variant: Variant) -> nn.Module:
    """The variant's network, on torch's default device, with weights that mean nothing."""
    if variant.network == "birefnet":
        return BiRefNet(SHAPES[variant.backbone])
    return MobileSam() if variant.network == "mobile_sam" else LamaGenerator()


def matting(weights: VerifiedWeights, device: Literal["cuda", "cpu"]) -> MattingEngine:
    """BiRefNet. Raises ``ModelNotLoaded`` if the file does not hold it, as all functions here."""
    variant = weights.variant
    assert variant.input_size_hw is not None
    predictor = BiRefNetPredictor(
        birefnet(weights),
        model_version=weights.model_version,
        input_size_hw=variant.input_size_hw,
        device=device,
        dtype=torch.float16 if device == "cuda" else torch.float32,
        max_images=8 if device == "cuda" else 1,  # on a CPU they would wait for each other, and take memory
    )
    return GuardedMatting(predictor, memory_of(device), on_cpu_instead(matting, weights, device))


def birefnet(weights: VerifiedWeights) -> BiRefNet:
    """The network alone, in float32 on the CPU, for inference."""
    variant = weights.variant
    with torch.device("meta"):
        expected = network_of(variant).state_dict()
    tensors = read_tensors(weights, {name: tuple(tensor.shape) for name, tensor in expected.items()})
    # Copies: what becomes of the file later must not reach a network that serves.
    return load_birefnet(SHAPES[variant.backbone], {name: tensor.clone() for name, tensor in tensors.items()})


def segmentation(weights: VerifiedWeights, device: Literal["cuda", "cpu"]) -> SegmentationEngine:
    """MobileSAM."""
    predictor = MobileSamPredictor(mobile_sam(weights), device=device, model_version=weights.model_version)
    return GuardedSegmentation(predictor, memory_of(device), on_cpu_instead(segmentation, weights, device))


def mobile_sam(weights: VerifiedWeights) -> MobileSam:
    """The network alone, in float32 on the CPU, for inference."""
    with torch.device("meta"):
        network = MobileSam()
    load_weights(network, weights)
    return network.eval().requires_grad_(False)


def inpainting(
    weights: VerifiedWeights, device: Literal["cuda", "cpu"], dtype: torch.dtype | None = None
) -> InpaintingEngine:
    """LaMa; ``dtype`` is what it computes in on a CPU, None for the quickest."""
    with torch.device("meta"):
        network = LamaGenerator()
    load_weights(network, weights)
    form = CpuLama(network, dtype) if device == "cpu" else network
    predictor = LamaPredictor(form, model_version=weights.model_version, device=device)
    return GuardedInpainting(predictor, memory_of(device), on_cpu_instead(inpainting, weights, device))


def on_cpu_instead(
    load: Callable[[VerifiedWeights, Literal["cuda", "cpu"]], Engine],
    weights: VerifiedWeights,
    device: Literal["cuda", "cpu"],
) -> Callable[[], Engine] | None:
    """What makes the engine on the CPU, from the very same file; None if that is where it runs anyway."""
    if device == "cpu":
        return None

    def load_again() -> Engine:
        try:
            is_the_same = sha256_of(weights.path) == weights.sha256
        except OSError:
            is_the_same = False
        if not is_the_same:
            raise ModelNotLoaded(f"{weights.path.name} is not what it was at the start.")
        return load(weights, "cpu")

    return load_again
