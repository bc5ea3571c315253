"""Holes filled as a soap film spans a frame."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.types import Mask

_Float = NDArray[np.float32]

_SWEEPS = 12
"""Smoothing passes at each size; the halves below have done the rest."""


def fill_smoothly(image: _Float, hole: Mask) -> _Float:
    """``image`` with the smoothest filling its hole can have; 127.5 where nothing at all is known.

    Args:
        image: float32, (H, W, C); what it holds in the hole is not used.
        hole: bool, (H, W).

    Laplace's equation by a pyramid: each size starts from the solution at half of it.
    """
    if not hole.any():
        return image.copy()
    if hole.all():
        return np.full_like(image, 127.5)
    weight = (~hole).astype(np.float32)
    height, width = hole.shape
    if max(height, width) > 2:
        size = ((width + 1) // 2, (height + 1) // 2)
        share = np.asarray(cv2.resize(weight, size, interpolation=cv2.INTER_AREA), np.float32)
        colour = np.asarray(cv2.resize(image * weight[..., None], size, interpolation=cv2.INTER_AREA), np.float32)
        known = np.asarray(colour / np.maximum(share, 1e-3)[..., None], np.float32)
        smaller = fill_smoothly(known, share < 1e-3)
        guess = np.asarray(cv2.resize(smaller, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    else:
        guess = np.broadcast_to(image[~hole].mean(axis=0), image.shape)
    filled = np.where(hole[..., None], guess.reshape(image.shape), image)
    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4.0
    for _ in range(_SWEEPS):
        mean = cv2.filter2D(filled, -1, cross, borderType=cv2.BORDER_REPLICATE).reshape(image.shape)
        filled = np.where(hole[..., None], mean, image)
    return np.asarray(filled, np.float32)
