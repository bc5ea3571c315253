"""Masks and alphas between a model's size and the photo's: lifting, smoothing, refining, boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import EmptyMask
from pipeline.types import Alpha, Alpha8, BoxXYXY, Image, Mask, MaskQuality

MIN_OBJECT_PX = 16
MIN_OBJECT_SHARE = 0.00005

# Removing an object takes what it casts around itself along: fringes, its glow, the first of its shadow.
REFINE_SHARE_OF_LONG_SIDE = 0.01
MIN_REFINE_PX = 3

# Contrast between neighbouring pixels of a model's alpha, of 255, from which on an edge passes there.
_EDGE_CONTRAST = 8
# Variance of luminance, of 1, below which a neighbourhood counts as plain and lends the alpha no edge.
_PLAIN_VARIANCE = 1e-3
_MAX_GUIDE_RADIUS_PX = 4
_TILE_PX = 128
_ROUNDING = 1e-6


@dataclass(frozen=True)
class RefinedMask:
    """What to fill for an object to vanish, and how to blend it in.

    Attributes:
        fill: bool, (H, W); the object and everything within the radius.
        weights: float32, (H, W), the fill's share of the result: 1 on the object and near it, falling towards the
            border of ``fill``, 0 outside.
    """

    fill: Mask
    weights: NDArray[np.float32]


def lift_alpha(model_alpha: Alpha8, image: Image) -> Alpha:
    """A model's alpha at the size of the photo, with edges where the photo has them.

    Args:
        model_alpha: uint8, (h, w), of ``image`` stretched to (h, w).
        image: RGB, uint8, (H, W, 3).

    Returns:
        float32, (H, W), in [0, 1]; exactly 0 and 1 where the model says so all around.

    Along edges a guided filter moves the interpolated alpha to the photo's own edges, and what its average over a
    model's pixel then lacks is given back: averaged down again, the result is what the model said. Without the second
    step the filter loses to plain interpolation. He et al., "Guided Image Filtering", ECCV 2010; Irani and Peleg,
    "Improving Resolution by Image Registration", 1991 (back-projection).
    """
    height, width = image.shape[:2]
    scale = max(height / model_alpha.shape[0], width / model_alpha.shape[1])
    interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    interpolated = _as_shares(cv2.resize(model_alpha, (width, height), interpolation=interpolation))
    if scale <= 1:
        return interpolated
    edges = _edges(model_alpha, (height, width))
    guided = interpolated.copy()
    radius_px = min(_MAX_GUIDE_RADIUS_PX, round(scale))
    for tile in _tiles_with(edges):
        _follow_edges_in(tile, guided, interpolated, image, radius_px)
    guided = _give_back(guided, model_alpha)
    np.copyto(interpolated, guided, where=edges)
    return interpolated


def _as_shares(values: NDArray[np.generic]) -> NDArray[np.float32]:
    shares: NDArray[np.float32] = np.multiply(values, np.float32(1 / 255), dtype=np.float32)
    return shares


def _edges(model_alpha: Alpha8, size_hw: tuple[int, int]) -> Mask:
    """Where edges of ``model_alpha`` and their surroundings lie at ``size_hw``."""
    contrast = cv2.morphologyEx(model_alpha, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    near = cv2.dilate((contrast >= _EDGE_CONTRAST).astype(np.uint8), np.ones((3, 3), np.uint8))
    return cv2.resize(near, size_hw[::-1], interpolation=cv2.INTER_NEAREST).astype(np.bool_)


def _tiles_with(edges: Mask) -> list[BoxXYXY]:
    """The tiles of a grid that hold an edge: mostly few, and each small enough for the processor's cache."""
    height, width = edges.shape
    grid = [
        (left, top, min(left + _TILE_PX, width), min(top + _TILE_PX, height))
        for top in range(0, height, _TILE_PX)
        for left in range(0, width, _TILE_PX)
    ]
    return [box for box in grid if edges[_cut(box)].any()]


def _follow_edges_in(tile: BoxXYXY, result: Alpha, alpha: Alpha, image: Image, radius_px: int) -> None:
    """Writes the filtered tile of ``alpha`` into ``result``."""
    # The filter averages twice, so a pixel sees twice the radius.
    left, top, right, bottom = pad_box(tile, 2 * radius_px, (alpha.shape[0], alpha.shape[1]))
    around = _cut((left, top, right, bottom))
    filtered = _follow_edges(alpha[around], image[around], radius_px)
    result[_cut(tile)] = filtered[tile[1] - top : tile[3] - top, tile[0] - left : tile[2] - left]


def _follow_edges(alpha: Alpha, image: Image, radius_px: int) -> Alpha:
    """The guided filter: within each neighbourhood, alpha as a linear function of the photo's luminance."""
    size = (2 * radius_px + 1, 2 * radius_px + 1)
    guide = _as_shares(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    mean_guide, mean_alpha = cv2.blur(guide, size), cv2.blur(alpha, size)
    variance = cv2.blur(guide * guide, size) - mean_guide * mean_guide
    covariance = cv2.blur(guide * alpha, size) - mean_guide * mean_alpha
    slope = covariance / (variance + np.float32(_PLAIN_VARIANCE))
    offset = mean_alpha - slope * mean_guide
    return cast(Alpha, np.clip(cv2.blur(slope, size) * guide + cv2.blur(offset, size), 0, 1))


def _give_back(alpha: Alpha, model_alpha: Alpha8) -> Alpha:
    """``alpha`` corrected so that its averages are ``model_alpha`` again."""
    averages = cv2.resize(alpha, model_alpha.shape[::-1], interpolation=cv2.INTER_AREA)
    missing = cv2.resize(_as_shares(model_alpha) - averages, alpha.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(cast(Alpha, cv2.add(alpha, missing)), 0, 1)


def smooth_alpha(alpha: Alpha, *, sigma_px: float | None = None) -> Alpha:
    """``alpha`` with its edges blurred; solid inside and empty outside stay exactly 1 and 0.

    Args:
        alpha: float32, (H, W), in [0, 1].
        sigma_px: Width of the Gaussian; None suits the size, about a pixel of a 1080p photo. A straight edge stays
            in its place.
    """
    if sigma_px is None:
        sigma_px = max(0.6, max(alpha.shape) / 2000)
    radius = int(np.ceil(3 * sigma_px))
    side = 2 * radius + 1
    blurred = cast(Alpha, cv2.GaussianBlur(alpha, (side, side), sigma_px, borderType=cv2.BORDER_REPLICATE))
    # The weights of a Gaussian add up to 1 but for rounding; a hair more contrast makes 0 and 1 exact again.
    blurred *= np.float32(1 + 2 * _ROUNDING)
    blurred -= np.float32(_ROUNDING)
    return np.clip(blurred, 0, 1, out=blurred)


def lift_mask(probabilities: NDArray[np.uint8], size_hw: tuple[int, int]) -> Mask:
    """The mask at ``size_hw`` that a model's uint8 probabilities (h, w) mean: True from one half upwards."""
    if probabilities.shape != size_hw:
        probabilities = cast(NDArray[np.uint8], cv2.resize(probabilities, size_hw[::-1], interpolation=cv2.INTER_CUBIC))
    return probabilities > 127


def is_too_small(mask: Mask) -> bool:
    """Whether ``mask`` marks less than any object one could mean: under 16 pixels or 0.005 % of the photo."""
    return int(np.count_nonzero(mask)) < max(MIN_OBJECT_PX, MIN_OBJECT_SHARE * mask.size)


def refine_radius_px(size_hw: tuple[int, int]) -> int:
    """How far around an object the removal reaches, for a photo of this size."""
    return max(MIN_REFINE_PX, round(REFINE_SHARE_OF_LONG_SIDE * max(size_hw)))


def refine_mask(mask: Mask, radius_px: int | None = None) -> RefinedMask:
    """``mask`` widened by a disc of ``radius_px``, with a soft border that blends the fill into the photo.

    Args:
        mask: bool, (H, W); the object as found.
        radius_px: Nothing farther than this from ``mask`` is part of the result; None suits the photo's size.
    """
    if radius_px is None:
        radius_px = refine_radius_px((mask.shape[0], mask.shape[1]))
    fill = np.zeros(mask.shape, np.bool_)
    weights = np.zeros(mask.shape, np.float32)
    if mask.any():
        inside = _cut(pad_box(mask_box(mask), radius_px + 1, (mask.shape[0], mask.shape[1])))
        outside_object = (~mask[inside]).astype(np.uint8)
        distance = cv2.distanceTransform(outside_object, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        fill[inside] = distance <= radius_px
        # Half of the widening is filled fully, so that an object cut a little tight leaves no ghost.
        feather = radius_px / 2
        share = np.clip((radius_px + 1 - distance) / (feather + 1), 0, 1)
        weights[inside] = np.where(fill[inside], share * share * (3 - 2 * share), 0)
    return RefinedMask(fill, weights)


def measure_quality(alpha: Alpha8) -> MaskQuality:
    """Coverage and confidence of a model's answer.

    Args:
        alpha: uint8, (H, W); alpha or probability, 255 is surely foreground. Before it was lifted or smoothed.
    """
    inside = alpha[alpha > 127]
    certainty = float(np.mean(np.abs(inside / 127.5 - 1))) if inside.size else 0.0
    return MaskQuality(coverage=round(float(np.mean(alpha)) / 255, 4), confidence=round(certainty, 4))


def mask_box(mask: Mask) -> BoxXYXY:
    """The smallest box around the True pixels.

    Raises:
        EmptyMask: There are none.
    """
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8) if mask.flags.c_contiguous else mask.astype(np.uint8))
    if width == 0:
        raise EmptyMask("The mask marks no pixel.")
    return x, y, x + width, y + height


def pad_box(box_xyxy: BoxXYXY, margin_px: int, size_hw: tuple[int, int]) -> BoxXYXY:
    """The box with ``margin_px`` more on every side, as far as an image of ``size_hw`` reaches."""
    left, top, right, bottom = box_xyxy
    height, width = size_hw
    return (
        max(0, left - margin_px),
        max(0, top - margin_px),
        min(width, right + margin_px),
        min(height, bottom + margin_px),
    )


def _cut(box_xyxy: BoxXYXY) -> tuple[slice, slice]:
    left, top, right, bottom = box_xyxy
    return slice(top, bottom), slice(left, right)
