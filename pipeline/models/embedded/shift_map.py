"""Which shift each pixel of a hole is copied by, so that the seams show least."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.types import Mask

_Float = NDArray[np.float32]

_FORBIDDEN: Final = np.float32(1e7)
_SWEEPS: Final = 2
_RIM_WINDOW_PX: Final = 5
_RIM_WEIGHT: Final = 2.0
_MISMATCH_LIMIT: Final = np.float32(3 * 50.0**2)
"""Beyond this squared distance at the rim, farther is no worse: an edge that ends there need not be continued."""

_DISTANCE_WEIGHT: Final = 200.0
"""Near things belong together: a shift costs this much times its share of the longer side."""

_EXPECTED_WEIGHT: Final = 0.5
_EXPECTED_LIMIT: Final = np.float32(3 * 40.0**2)
"""Beyond this squared distance from the expected colour, farther is no worse: the expectation is only a guess."""


def choose_shifts(image: _Float, hole: Mask, expected: _Float, shifts: NDArray[np.intp]) -> NDArray[np.intp]:
    """For each pixel the index of its shift, (H, W); -1 outside the hole and where no shift leads to a known pixel.

    Args:
        image: float32, (H, W, 3), 0 to 255.
        hole: bool, (H, W).
        expected: float32, (H, W, 3), a smooth guess at the filled picture.
        shifts: intp, (K, 2), as (y, x): a pixel at p may be copied from p + shift.

    The labelling of Pritch et al., "Shift-Map Image Editing", ICCV 2009, by belief propagation in sweeps.
    """
    rows, columns = np.nonzero(hole)
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    colours, costs = _copies(image, hole, expected, shifts, box)
    inside = hole[box]
    beliefs = _sweep(costs, _seam_costs(colours), inside)
    chosen = beliefs.argmin(axis=2)
    possible = np.take_along_axis(costs, chosen[..., None], axis=2)[..., 0] < _FORBIDDEN
    labels = np.full(hole.shape, -1, np.intp)
    labels[box] = np.where(inside & possible, chosen, -1)
    return labels


def _copies(
    image: _Float, hole: Mask, expected: _Float, shifts: NDArray[np.intp], box: tuple[slice, slice]
) -> tuple[_Float, _Float]:
    """What each shift would put at each pixel of the box, (h, w, K, 3), and what it costs there, (h, w, K)."""
    height, width = hole.shape
    y, x = np.mgrid[:height, :width]
    blurred = np.asarray(cv2.GaussianBlur(expected, (0, 0), 3.0), np.float32)
    known = (~hole).astype(np.float32)
    window = (_RIM_WINDOW_PX, _RIM_WINDOW_PX)
    colours, costs = [], []
    for dy, dx in shifts.tolist():
        sy, sx = np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)
        fits = (y + dy == sy) & (x + dx == sx) & ~hole[sy, sx]
        copied = image[sy, sx]
        comparable = known * fits
        mismatch = np.minimum(((copied - image) ** 2).sum(axis=2), _MISMATCH_LIMIT) * comparable
        rim = cv2.boxFilter(mismatch, -1, window, normalize=False)
        weight = cv2.boxFilter(comparable, -1, window, normalize=False)
        unlike = np.minimum(((blurred[sy, sx] - expected) ** 2).sum(axis=2), _EXPECTED_LIMIT)
        cost = _RIM_WEIGHT * rim / np.maximum(weight, 1.0) * (weight > 0) + _EXPECTED_WEIGHT * unlike
        cost += _DISTANCE_WEIGHT * float(np.hypot(dy, dx)) / max(height, width)
        colours.append(copied[box])
        costs.append(np.where(fits, cost, _FORBIDDEN)[box])
    return np.stack(colours, axis=2), np.stack(costs, axis=2).astype(np.float32)


def _seam_costs(colours: _Float) -> _Float:
    """Squared distance between what any two shifts put at a pixel, (h, w, K, K)."""
    distances = colours @ colours.swapaxes(2, 3)
    squares = np.diagonal(distances, axis1=2, axis2=3).copy()
    distances *= -2.0  # in place: this is by far the largest array of a fill
    distances += squares[..., :, None]
    distances += squares[..., None, :]
    return np.asarray(np.maximum(distances, 0.0, out=distances), np.float32)


def _sweep(costs: _Float, seams: _Float, inside: Mask) -> _Float:
    """Beliefs, (h, w, K), after messages have swept over the box right, left, down and up a few times."""
    height, width, _ = costs.shape
    messages = [np.zeros_like(costs) for _ in range(4)]  # as they arrive: from the left, right, top, bottom
    for _ in range(_SWEEPS):
        for side, (axis, order) in enumerate(
            ((1, range(1, width)), (1, range(width - 2, -1, -1)), (0, range(1, height)), (0, range(height - 2, -1, -1)))
        ):
            back = -1 if side % 2 == 0 else 1
            for line in order:
                to = (slice(None), line) if axis else (line, slice(None))
                at = (slice(None), line + back) if axis else (line + back, slice(None))
                told = costs[at] + sum(messages[other][at] for other in range(4) if other != side ^ 1)
                message = (told[:, :, None] + seams[at] + seams[to]).min(axis=1)
                message -= message.min(axis=1, keepdims=True)
                messages[side][to] = message * (inside[at] & inside[to])[:, None]
    return np.asarray(costs + sum(messages), np.float32)
