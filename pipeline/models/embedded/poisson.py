"""Poisson's equation inside a hole, by multigrid."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.types import Mask

_Float = NDArray[np.float32]

_CROSS: Final = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32)
_SMOOTHINGS: Final = 3
_CYCLES: Final = 4


def solve_poisson(divergence: _Float, hole: Mask) -> _Float:
    """The field that is 0 outside ``hole`` and has this divergence of its gradient inside, (H, W, C).

    Args:
        divergence: float32, (H, W, C): sum of the four neighbours less four times the pixel. The picture's frame
            repeats its pixels.
        hole: bool, (H, W).
    """
    inside = hole.astype(np.float32)[..., None]
    field = np.zeros_like(divergence)
    for _ in range(_CYCLES):
        field = _cycle(field, divergence, inside)
    return field


def laplacian(field: _Float) -> _Float:
    """Sum of the four neighbours less four times the pixel; the frame repeats its pixels. (H, W, C)."""
    around = cv2.filter2D(field, -1, _CROSS, borderType=cv2.BORDER_REPLICATE).reshape(field.shape)
    return np.asarray(around - 4.0 * field, np.float32)


def _smooth(field: _Float, divergence: _Float, inside: _Float, times: int) -> _Float:
    for _ in range(times):
        field = field + 0.2 * inside * (laplacian(field) - divergence)
    return field


def _cycle(field: _Float, divergence: _Float, inside: _Float) -> _Float:
    """One V-cycle: smooth, solve what is left at half the size, smooth again."""
    height, width, channels = field.shape
    if max(height, width) <= 6:
        return _smooth(field, divergence, inside, 30)
    field = _smooth(field, divergence, inside, _SMOOTHINGS)
    left = inside * (divergence - laplacian(field))
    size = ((width + 1) // 2, (height + 1) // 2)
    shape = (size[1], size[0], channels)
    coarse_inside = cv2.resize(inside, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], 1)
    coarse_left = 4.0 * cv2.resize(left, size, interpolation=cv2.INTER_AREA).reshape(shape)  # twice the step, squared
    mostly_inside = (coarse_inside > 0.7).astype(np.float32)
    coarse = _cycle(np.zeros(shape, np.float32), np.asarray(coarse_left, np.float32), mostly_inside)
    lifted = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(field.shape)
    return _smooth(field + inside * lifted, divergence, inside, _SMOOTHINGS)
