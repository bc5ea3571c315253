"""Figures on the validation photos at the size in training."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from pipeline.models.embedded.taps import draw_taps
from scripts.training_embedded.pairs import Rgba
from scripts.training_embedded.tap_points import deepest_point


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over all photos: with no tap, and with one at the mask's deepest point."""

    automatic_iou: float
    automatic_mae: float
    tap_iou: float

    def __str__(self) -> str:
        return f"automatic IoU {self.automatic_iou:.4f} MAE {self.automatic_mae:.4f}, one tap IoU {self.tap_iou:.4f}"


@torch.inference_mode()
def validate(network: nn.Module, pairs: Rgba, *, size: int, device: torch.device, batch_size: int = 40) -> Figures:
    """Squeeze ``pairs`` (N, S, S, 4) to ``size`` and compare the network's answers with the masks."""
    network.eval()
    automatic: list[Tensor] = []
    errors: list[Tensor] = []
    tapped: list[Tensor] = []
    for start in range(0, len(pairs), batch_size):
        views = [
            cv2.resize(pair, (size, size), interpolation=cv2.INTER_AREA) for pair in pairs[start : start + batch_size]
        ]
        pixels = np.zeros((len(views), 5, size, size), np.uint8)
        masks = np.stack([view[..., 3] for view in views])
        for row, view in enumerate(views):
            pixels[row, :3] = view[..., :3].transpose(2, 0, 1)
        truth = torch.from_numpy(masks).to(device)
        probability = _predict(network, pixels, device)
        automatic.append(_iou(probability, truth))
        errors.append((probability - truth / 255).abs().mean((1, 2)))
        for row, mask in enumerate(masks):
            pixels[row, 3] = draw_taps([deepest_point(mask > 127)], (size, size))
        tapped.append(_iou(_predict(network, pixels, device), truth))
    network.train()
    return Figures(*(float(torch.cat(values).mean()) for values in (automatic, errors, tapped)))


def _predict(network: nn.Module, pixels: np.ndarray, device: torch.device) -> Tensor:
    with torch.autocast(device.type, torch.bfloat16):
        logits: Tensor = network(torch.from_numpy(pixels).to(device))[0]
    return logits.float().sigmoid()[:, 0]


def _iou(probability: Tensor, truth: Tensor) -> Tensor:
    predicted, wanted = probability > 0.5, truth > 127
    both = (predicted & wanted).sum((1, 2))
    return both / (predicted | wanted).sum((1, 2)).clamp(min=1)
