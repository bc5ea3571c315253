"""Taps as the network sees them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TAP_SIGMA = 0.02
"""Width of a tap's bump, as a share of the map's side."""


def draw_taps(points: Sequence[tuple[float, float]], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """A map with a Gaussian bump, 255 high, at each point; empty without points.

    Args:
        points: (x, y) in pixels of the map; the centre of the first pixel is (0, 0).
        size_hw: Height and width of the map.

    Returns:
        uint8, (H, W). Where bumps overlap, the higher one stands.
    """
    height, width = size_hw
    bumps = np.zeros(size_hw, dtype=np.float32)
    for x, y in points:
        column = np.exp(-0.5 * ((np.arange(width, dtype=np.float32) - x) / (TAP_SIGMA * width)) ** 2)
        row = np.exp(-0.5 * ((np.arange(height, dtype=np.float32) - y) / (TAP_SIGMA * height)) ** 2)
        np.maximum(bumps, row[:, None] * column[None, :], out=bumps)
    return np.rint(255 * bumps).astype(np.uint8)
