"""BiRefNet as a matting engine: images in, alphas out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import InferenceError, ShapeMismatch
from pipeline.types import Alpha8, EngineInfo, Image

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
"""ImageNet's colours, of pixels in [0, 1]; the training of BiRefNet normalised with them."""


class BiRefNetPredictor:
    """BiRefNet on one device; a ``MattingEngine``.

    Args:
        network: With its weights; logits (B, 1, H, W) from normalised pictures (B, 3, H, W). A PyTorch module is moved
            to ``device`` and ``dtype``; anything else takes and returns tensors of that device and type as it is.
        model_version: What ``info`` names.
        input_size_hw: The size images must have; 1024 × 1024 for most variants.
        device: ``cpu`` or ``cuda``.
        dtype: Precision of the weights and of the pictures given to them.
        max_images: Images that go through the network together; memory grows with them.
        runtime: What runs the network; ``info`` tells it.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        *,
        model_version: str,
        input_size_hw: tuple[int, int],
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_images: int = 8,
        runtime: str = "torch",
    ) -> None:
        if isinstance(network, nn.Module):
            network = network.eval().requires_grad_(False).to(device, dtype)
        self._network = network
        self._info = EngineInfo(
            model_version=model_version, device=device, input_size_hw=input_size_hw, runtime=runtime
        )
        self._device = torch.device(device)
        self._dtype = dtype
        self._max_images = max_images
        self._mean = torch.tensor(MEAN, device=self._device).view(3, 1, 1) * 255
        self._std = torch.tensor(STD, device=self._device).view(3, 1, 1) * 255

    @property
    def info(self) -> EngineInfo:
        return self._info

    def estimate_alpha(self, images: Sequence[Image]) -> list[Alpha8]:
        """One alpha per image, uint8, (H, W), 255 is all foreground.

        Raises:
            ShapeMismatch: An image has another size than ``info.input_size_hw``.
            InferenceError: The network's answer is not a number somewhere.
        """
        require_size(images, self._info.input_size_hw)
        alphas: list[Alpha8] = []
        for start in range(0, len(images), self._max_images):
            alphas += self._estimate(images[start : start + self._max_images])
        return alphas

    @torch.inference_mode()
    def _estimate(self, images: Sequence[Image]) -> list[Alpha8]:
        pixels = torch.from_numpy(np.stack(images)).to(self._device).permute(0, 3, 1, 2)  # (B, 3, H, W)
        x = ((pixels.float() - self._mean) / self._std).to(self._dtype, memory_format=torch.contiguous_format)
        probability = torch.sigmoid(self._network(x).float())[:, 0]
        if not probability.isfinite().all():  # infinite logits have a sigmoid; only NaN has none
            raise InferenceError("The matting model gave no alpha for this picture.")
        # Rounded, where the official demo cuts off: there nothing below certainty would be wholly opaque.
        alpha = (probability * 255).round_().to(torch.uint8).cpu().numpy()
        return list(alpha)


def require_size(images: Sequence[Image], size_hw: tuple[int, int]) -> None:
    """Raises ``ShapeMismatch`` unless every image is (H, W, 3) of that size."""
    for image in images:
        if image.shape != (*size_hw, 3):
            raise ShapeMismatch(f"An image is {image.shape}; it must be {(*size_hw, 3)}.")
