"""LaMa on arrays: windows with holes in, the same windows filled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import InferenceError, ShapeMismatch
from pipeline.models.lama.network import SIDE_MULTIPLE_PX, SMALLEST_SIDE_PX, masked_input
from pipeline.types import EngineInfo, Image, Mask

_LARGEST_SIDE_PX: Final = 1024
_PIXELS_PER_PASS: Final = 1024 * 1024
"""One window of the largest size, or four of half its side: memory grows with pixels, whatever they belong to."""


class LamaPredictor:
    """An ``InpaintingEngine``: batches windows, shows them to the network, and takes from its answer the holes only.

    Device, precision and evaluation mode are set here, and nowhere else.

    Args:
        network: A ``LamaGenerator`` with its weights, or anything callable like it. A PyTorch module is moved, not
            copied; anything else takes and returns tensors of ``device``.
        model_version: What the weights are called.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        precision: float32, or a half type for what bears it; the network keeps its Fourier transforms in float32.
        largest_side_px: The largest window callers are told to send.
        pixels_per_pass: So many pixels go through the network at once, or one window if that is more.
        runtime: What runs the network; ``info`` tells it.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        *,
        model_version: str,
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.float32,
        largest_side_px: int = _LARGEST_SIDE_PX,
        pixels_per_pass: int = _PIXELS_PER_PASS,
        runtime: str = "torch",
    ) -> None:
        self._device = torch.device(device)
        self._network = network.to(self._device).eval() if isinstance(network, nn.Module) else network
        self._precision = precision
        self._pixels_per_pass = pixels_per_pass
        self._info = EngineInfo(
            model_version=model_version,
            device=self._device.type,
            input_size_hw=(largest_side_px, largest_side_px),
            runtime=runtime,
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    def inpaint(self, images: Sequence[Image], masks: Sequence[Mask]) -> list[Image]:
        """Each image with its mask's True pixels replaced; the others are the image's own.

        Args:
            images: RGB, uint8, (H, W, 3); they may differ in size. Those of one padded size share a pass.
            masks: bool, (H, W), one for each image.

        Raises:
            ShapeMismatch: An image and its mask differ in height or width.
            InferenceError: The network's answer is not a number somewhere.
        """
        for image, mask in zip(images, masks, strict=True):
            if image.shape[:2] != mask.shape:
                raise ShapeMismatch(f"Image {image.shape[:2]} and mask {mask.shape} differ in size.")
        results = [image.copy() for image in images]
        for indices in self._passes(masks):
            fills = self._fill(
                np.stack([pad_window(images[index]) for index in indices]),
                np.stack([pad_window(masks[index]) for index in indices]),
            )
            for index, fill in zip(indices, fills, strict=True):
                hole = masks[index]
                results[index][hole] = fill[: hole.shape[0], : hole.shape[1]][hole]
        return results

    def _passes(self, masks: Sequence[Mask]) -> Iterator[list[int]]:
        """Indices of windows that go through the network together; windows without a hole go through none."""
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, mask in enumerate(masks):
            if mask.any():
                by_size.setdefault((padded_side_px(mask.shape[0]), padded_side_px(mask.shape[1])), []).append(index)
        for (height, width), indices in by_size.items():
            step = max(1, self._pixels_per_pass // (height * width))
            for start in range(0, len(indices), step):
                yield indices[start : start + step]

    @torch.inference_mode()
    def _fill(self, images: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """The network's pictures, uint8, (B, H, W, 3), of padded images (B, H, W, 3) and masks (B, H, W)."""
        image = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).contiguous().float() / 255
        mask = torch.from_numpy(masks).to(self._device).unsqueeze(1).float()
        half = self._precision != torch.float32
        with torch.autocast(self._device.type, self._precision if half else None, enabled=half):
            picture = self._network(masked_input(image, mask)).float()
        if not picture.isfinite().all():
            raise InferenceError("The inpainting model gave no picture for this window.")
        # Truncated, as the original does.
        pixels: NDArray[np.uint8] = (picture * 255).clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        return pixels


def pad_window(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """An image or mask, (H, W, …), mirrored at the bottom and right until the network takes its size.

    The edge is repeated, as in the original's predictor. Arrays smaller than the padding are mirrored again and again.
    """
    height, width = pixels.shape[:2]
    beyond = [(0, padded_side_px(height) - height), (0, padded_side_px(width) - width)]
    return np.pad(pixels, beyond + [(0, 0)] * (pixels.ndim - 2), "symmetric")


def padded_side_px(side_px: int) -> int:
    return max(SMALLEST_SIDE_PX, -(-side_px // SIDE_MULTIPLE_PX) * SIDE_MULTIPLE_PX)
