"""Where a user would tap: inside a thing, on its neighbours, on what a first answer got wrong."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Region = NDArray[np.bool_]
Point = tuple[float, float]


def depth(region: Region) -> NDArray[np.float32]:
    """Distance of each pixel inside ``region`` to its edge or to the picture's border, in pixels."""
    padded = np.pad(region.astype(np.uint8), 1)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1], np.float32)


def deepest_point(region: Region) -> Point:
    """(x, y) farthest from the edge of ``region``."""
    y, x = np.unravel_index(int(depth(region).argmax()), region.shape)
    return float(x), float(y)


def point_inside(region: Region, rng: np.random.Generator) -> Point:
    """(x, y) in ``region``: the deepest, a deep one, or any, edges included."""
    chance = rng.random()
    if chance < 0.35:
        candidates = region
    else:
        distances = depth(region)
        candidates = distances > (0.85 if chance < 0.6 else 0.35) * distances.max()
    rows, columns = np.nonzero(candidates)
    index = int(rng.integers(len(rows)))
    return float(columns[index]), float(rows[index])


def point_beside(region: Region, rng: np.random.Generator) -> Point | None:
    """(x, y) outside ``region``, half of the time close to its edge; None if it fills the picture."""
    outside = ~region
    if rng.random() < 0.5:
        reach = max(3, region.shape[0] // 8)
        near = cv2.dilate(region.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
        clear = cv2.dilate(region.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
        outside = near & clear
    rows, columns = np.nonzero(outside)
    if not len(rows):
        return None
    index = int(rng.integers(len(rows)))
    return float(columns[index]), float(rows[index])


def correction(predicted: Region, wanted: Region) -> tuple[Point, bool] | None:
    """The tap that a user would add: the deepest point of the largest error and whether it is positive.

    None where no error is wider than two pixels.
    """
    missing, surplus = depth(wanted & ~predicted), depth(predicted & ~wanted)
    positive = bool(missing.max() >= surplus.max())
    distances = missing if positive else surplus
    if distances.max() < 2:
        return None
    y, x = np.unravel_index(int(distances.argmax()), distances.shape)
    return (float(x), float(y)), positive
