"""Shifts by which a picture repeats itself."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.types import Mask

_Float = NDArray[np.float32]

_PATCH_PX: Final = 7
_FEATURES: Final = 20
"""Principal components a patch is compared by, out of 147 numbers."""

_SAMPLES: Final = 800
_RIM_SAMPLES: Final = 600
"""Patches asked for their likeness: some from all over, and those next to the hole, whose shifts it needs."""
_NEAREST_SHARE: Final = 1 / 24
"""Shifts shorter than this share of the longer side say only that neighbours are alike."""


def dominant_shifts(image: _Float, known: Mask, *, count: int) -> NDArray[np.intp]:
    """The ``count`` (or fewer) shifts that most patches find their likeness by, most frequent first, (K, 2) as (y, x).

    Args:
        image: float32, (H, W, C).
        known: bool, (H, W); patches that touch other pixels are left out.

    He and Sun, "Statistics of Patch Offsets for Image Completion", ECCV 2012.
    """
    height, width = known.shape
    whole = cv2.erode(np.pad(known, _PATCH_PX).astype(np.uint8), np.ones((_PATCH_PX, _PATCH_PX), np.uint8))
    places = np.argwhere(whole[_PATCH_PX:-_PATCH_PX, _PATCH_PX:-_PATCH_PX] > 0)
    if len(places) < 2:
        return np.zeros((0, 2), np.intp)
    features = _features(image, places)
    depth = np.asarray(cv2.distanceTransform(known.astype(np.uint8), cv2.DIST_L2, 3), np.float32)
    by_rim = np.argsort(depth[places[:, 0], places[:, 1]], kind="stable")
    asked = np.concatenate([by_rim[:_RIM_SAMPLES], by_rim[_RIM_SAMPLES :: max(1, len(places) // _SAMPLES)]])
    far_px = max(height, width) * _NEAREST_SHARE
    lengths = (features**2).sum(axis=1)
    votes = np.zeros((2 * height - 1, 2 * width - 1), np.float32)
    for rows in np.array_split(asked, max(1, len(asked) * len(places) // 4_000_000)):
        table = features[rows] @ (-2.0 * features.T) + lengths
        dy = np.abs(places[rows, 0, None] - places[None, :, 0]).astype(np.int16)
        dx = np.abs(places[rows, 1, None] - places[None, :, 1]).astype(np.int16)
        table[np.maximum(dy, dx) < far_px] = np.inf
        shifts = places[table.argmin(axis=1)] - places[rows]
        np.add.at(votes, (shifts[:, 0] + height - 1, shifts[:, 1] + width - 1), 1.0)
    return np.asarray(_peaks(votes, count) - [height - 1, width - 1], np.intp)


def add_covering_shifts(shifts: NDArray[np.intp], hole: Mask, *, count: int) -> NDArray[np.intp]:
    """``shifts`` and up to ``count`` more, so that as much of the hole as possible leads to a known pixel.

    Args:
        shifts: intp, (K, 2), as (y, x).
        hole: bool, (H, W).
    """
    random = np.random.default_rng(0)
    holes, known = np.argwhere(hole), np.argwhere(~hole)
    uncovered = np.ones(len(holes), np.bool_)
    for shift in shifts:
        uncovered &= ~_leads_out(holes, hole, shift)
    added: list[NDArray[np.intp]] = []
    while len(added) < count and uncovered.any() and len(known):
        open_ends = holes[uncovered]
        tries = known[random.integers(len(known), size=48)] - open_ends[random.integers(len(open_ends), size=48)]
        covers = [_leads_out(open_ends, hole, shift) for shift in tries]
        best = int(np.argmax([cover.sum() for cover in covers]))
        added.append(tries[best])
        uncovered[uncovered] = ~covers[best]
    return np.concatenate([shifts.reshape(-1, 2), np.array(added, np.intp).reshape(-1, 2)])


def _leads_out(places: NDArray[np.intp], hole: Mask, shift: NDArray[np.intp]) -> Mask:
    """Whether each place, moved by ``shift``, is a known pixel, (N,)."""
    moved = places + shift
    fits = ((moved >= 0) & (moved < hole.shape)).all(axis=1)
    clipped = np.clip(moved, 0, np.array(hole.shape) - 1)
    return np.asarray(fits & ~hole[clipped[:, 0], clipped[:, 1]], np.bool_)


def _features(image: _Float, places: NDArray[np.intp]) -> _Float:
    """The patches around ``places`` projected on their principal components, (N, F)."""
    half = _PATCH_PX // 2
    windows = np.lib.stride_tricks.sliding_window_view(image, (_PATCH_PX, _PATCH_PX), axis=(0, 1))
    patches = windows[places[:, 0] - half, places[:, 1] - half].reshape(len(places), -1)
    patches = patches - patches.mean(axis=0)
    sample = patches[:: max(1, len(patches) // 2000)]
    _, axes = np.linalg.eigh(sample.T @ sample)
    return np.ascontiguousarray(patches @ axes[:, : -_FEATURES - 1 : -1], np.float32)


def _peaks(votes: _Float, count: int) -> NDArray[np.intp]:
    """The highest local maxima of the smoothed histogram, (K, 2)."""
    smooth = np.asarray(cv2.GaussianBlur(votes, (0, 0), 1.4), np.float32)
    around = np.asarray(cv2.dilate(smooth, np.ones((5, 5), np.uint8)), np.float32)
    places = np.argwhere((smooth >= around) & (smooth > 0.01))
    order = np.argsort(-smooth[places[:, 0], places[:, 1]], kind="stable")
    return np.asarray(places[order[:count]], np.intp)
