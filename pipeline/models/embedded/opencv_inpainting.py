"""Holes filled without a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from pipeline.models.embedded.membrane import fill_smoothly
from pipeline.types import EngineInfo, Image, Mask

_LARGEST_SIDE_PX: Final = 1024


class OpenCvInpainting:
    """Removal from what surrounds the hole, for when no weights are at hand."""

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            model_version="opencv-embedded",
            device="cpu",
            input_size_hw=(_LARGEST_SIDE_PX, _LARGEST_SIDE_PX),
            degraded_reason=(
                "No model weights found; filling holes with OpenCV only, from nearby texture. For real quality see "
                "README, Models."
            ),
        )

    def inpaint(self, images: Sequence[Image], masks: Sequence[Mask]) -> list[Image]:
        """Each image with its mask's True pixels replaced; the others are the image's own."""
        return [_fill(image, mask) for image, mask in zip(images, masks, strict=True)]


def _fill(image: Image, hole: Mask) -> Image:
    smooth = np.rint(fill_smoothly(image.astype(np.float32), hole)).clip(0, 255).astype(np.uint8)
    return np.where(hole[..., None], smooth, image)
