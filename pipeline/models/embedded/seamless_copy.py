"""Pixels copied by a field of shifts, with their differences kept and their colours fitted to what surrounds them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.models.embedded.poisson import solve_poisson
from pipeline.types import Mask

_Float = NDArray[np.float32]

_EDGE_LEVELS: Final = 120.0
"""Jumps much larger than this are edges that end at a seam; evened out they would glow far into the hole."""


def copy_seamlessly(image: _Float, hole: Mask, shifts_yx: NDArray[np.intp]) -> _Float:
    """``image`` with each hole pixel p copied from p + shift and the seams between copies evened out.

    Args:
        image: float32, (H, W, C); where a shift is zero inside the hole, what it holds there is the copy.
        hole: bool, (H, W).
        shifts_yx: intp, (H, W, 2); zero outside the hole.

    Pérez et al., "Poisson Image Editing", SIGGRAPH 2003; across a seam the gradient is the mean of both copies'.
    """
    height, width = hole.shape
    rows, columns = np.nonzero(hole)
    top, left = max(0, int(rows.min()) - 1), max(0, int(columns.min()) - 1)
    box = np.s_[top : int(rows.max()) + 2, left : int(columns.max()) + 2]
    inside = hole[box]
    source_y, source_x = (
        np.indices(inside.shape) + np.array([top, left])[:, None, None] + shifts_yx[box].transpose(2, 0, 1)
    )

    def look(y: NDArray[np.intp], x: NDArray[np.intp]) -> _Float:
        return image[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]

    copied = look(source_y, source_x)
    divergence = np.zeros_like(copied)  # of what the gradient must change by
    weight = inside.astype(np.float32)[..., None]
    for down, right in ((1, 0), (0, 1)):
        first = np.s_[: inside.shape[0] - down, : inside.shape[1] - right]
        second = np.s_[down:, right:]
        # Only copies have a say: between a copy and the known picture it is the copy's own gradient that counts.
        step = weight[first] * (look(source_y[first] + down, source_x[first] + right) - copied[first])
        step += weight[second] * (copied[second] - look(source_y[second] - down, source_x[second] - right))
        jump = step / np.maximum(weight[first] + weight[second], 1.0) - (copied[second] - copied[first])
        jump *= 1.0 / (1.0 + (jump**2).sum(axis=2, keepdims=True) / _EDGE_LEVELS**2)
        divergence[first] += jump
        divergence[second] -= jump
    correction = solve_poisson(divergence * weight, inside)
    filled = image.copy()
    filled[box] = copied + correction
    return filled
