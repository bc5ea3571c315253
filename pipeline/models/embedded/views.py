"""Parts of an image that the network looks at, each stretched to the network's square."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.masks import lift_alpha
from pipeline.models.embedded.network import STRIDE
from pipeline.models.embedded.taps import draw_taps
from pipeline.models.embedded.weights import TrainedNetwork
from pipeline.resize import stretch
from pipeline.types import Alpha, Alpha8, BoxXYXY, Image

_SMALLER: Final = 5 / 7
"""The second size that views are looked at, as a share of the network's side."""


@dataclass(frozen=True)
class View:
    """A box of an image and the taps on it.

    Attributes:
        image: RGB, uint8, (H, W, 3); the whole image.
        box_xyxy: The part to look at, inside the image.
        positive: float32, (N, 2), (x, y) in pixels of ``image``; those outside the box are left out.
        negative: Likewise.
    """

    image: Image
    box_xyxy: BoxXYXY
    positive: NDArray[np.float32]
    negative: NDArray[np.float32]


@dataclass(frozen=True)
class Look:
    """A view and the network's probabilities for it, (S, S)."""

    view: View
    probability: Alpha


NO_TAPS: NDArray[np.float32] = np.zeros((0, 2), np.float32)


def whole(image: Image, positive: NDArray[np.float32] = NO_TAPS, negative: NDArray[np.float32] = NO_TAPS) -> View:
    """All of ``image`` as one view."""
    return View(image, (0, 0, image.shape[1], image.shape[0]), positive, negative)


def predict(trained: TrainedNetwork, views: Sequence[View]) -> list[Alpha]:
    """The network's probabilities for each view, float32, (S, S), where S is the network's side.

    The mean over each view and its mirror image at two sizes: four opinions differ most where one would be wrong.
    """
    smaller_px = round(trained.side_px * _SMALLER / STRIDE) * STRIDE
    both = [_probabilities(trained, views, side_px) for side_px in (trained.side_px, smaller_px)]
    enlarged = F.interpolate(both[1], size=both[0].shape[-2:], mode="bilinear", align_corners=False)
    return list(((both[0] + enlarged) / 2)[:, 0].cpu().numpy())


def lift_into_image(probability: Alpha, view: View) -> Alpha8:
    """A view's probabilities (S, S) where they belong in the image, uint8, (H, W); 0 outside the view's box.

    Edges follow the image's own.
    """
    left, top, right, bottom = view.box_xyxy
    lifted = np.zeros(view.image.shape[:2], np.uint8)
    small = np.rint(255 * probability).astype(np.uint8)
    lifted[top:bottom, left:right] = np.rint(255 * lift_alpha(small, view.image[top:bottom, left:right]))
    return lifted


def _probabilities(trained: TrainedNetwork, views: Sequence[View], side_px: int) -> Tensor:
    """(B, 1, side_px, side_px), each the mean over the view and its mirror image."""
    pixels = torch.from_numpy(np.stack([_pixels(view, side_px) for view in views]))
    with torch.inference_mode():
        batch = pixels.to(next(trained.network.parameters()).device)
        straight, mirrored = trained.network(torch.cat([batch, batch.flip(-1)]))[0].sigmoid().chunk(2)
        mean: Tensor = (straight + mirrored.flip(-1)) / 2
        return mean


def _pixels(view: View, side_px: int) -> NDArray[np.uint8]:
    """What the network reads: RGB and the two maps of taps, uint8, (5, S, S)."""
    left, top, right, bottom = view.box_xyxy
    size_hw = (side_px, side_px)
    rgb = stretch(np.ascontiguousarray(view.image[top:bottom, left:right]), size_hw)
    maps = [draw_taps(_on_square(points, view.box_xyxy, side_px), size_hw) for points in (view.positive, view.negative)]
    return np.concatenate([rgb.transpose(2, 0, 1), np.stack(maps)])


def _on_square(points: NDArray[np.float32], box_xyxy: BoxXYXY, side_px: int) -> list[tuple[float, float]]:
    """Points inside the box, in pixels of the square; a pixel's centre is a whole number there as here."""
    left, top, right, bottom = box_xyxy
    x = (points[:, 0] - left + 0.5) * side_px / (right - left) - 0.5
    y = (points[:, 1] - top + 0.5) * side_px / (bottom - top) - 0.5
    inside = (x >= -0.5) & (y >= -0.5) & (x <= side_px - 0.5) & (y <= side_px - 0.5)
    return list(zip(x[inside].tolist(), y[inside].tolist(), strict=True))


def values_at(values: NDArray[np.generic], points: NDArray[np.float32], box_xyxy: BoxXYXY) -> NDArray[np.generic]:
    """``values`` (S, S) of a view, at points given in pixels of the image; those outside the view at its border."""
    side = values.shape[0]
    left, top, right, bottom = box_xyxy
    x = ((points[:, 0] - left) * side / (right - left)).astype(np.intp).clip(0, side - 1)
    y = ((points[:, 1] - top) * side / (bottom - top)).astype(np.intp).clip(0, side - 1)
    return np.asarray(values[y, x])


def within_image(box_xyxy: tuple[float, float, float, float], size_hw: tuple[int, int]) -> BoxXYXY:
    """Whole pixels that the box touches inside an image; at least one each way."""
    height, width = size_hw
    left, top = min(max(0, int(box_xyxy[0])), width - 1), min(max(0, int(box_xyxy[1])), height - 1)
    right, bottom = min(width, int(np.ceil(box_xyxy[2]))), min(height, int(np.ceil(box_xyxy[3])))
    return left, top, max(right, left + 1), max(bottom, top + 1)
