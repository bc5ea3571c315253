"""Holes filled without a network: texture shifted from elsewhere in the picture.

Where the picture repeats itself is found in a small copy, and so is which shift each pixel of the hole takes. The
pixels themselves are copied at full size, so their detail stays, and fitted in by Poisson's equation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.models.embedded.dominant_shifts import add_covering_shifts, dominant_shifts
from pipeline.models.embedded.membrane import fill_smoothly
from pipeline.models.embedded.seamless_copy import copy_seamlessly
from pipeline.models.embedded.shift_map import choose_shifts
from pipeline.types import EngineInfo, Image, Mask

_Float = NDArray[np.float32]

_LARGEST_SIDE_PX: Final = 1024
_CONTEXT_SHARE: Final = 1.0
"""Texture is looked for as far around the hole as this share of the hole's longer side."""

_MIN_CONTEXT_PX: Final = 48
_WORK_SIDE_PX: Final = 192
_WORK_HOLE_PX: Final = 3000
"""The small copy has at most this side, and so many pixels in the box around its hole: they bound time and memory."""

_SHIFTS: Final = 64
_COVERING_SHIFTS: Final = 8
_SMALLEST_TEXTURED_PX: Final = 30
"""Smaller holes are filled smoothly: nobody sees their texture."""


class OpenCvInpainting:
    """Removal from what surrounds the hole, for when no weights are at hand."""

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            model_version="opencv-embedded",
            device="cpu",
            input_size_hw=(_LARGEST_SIDE_PX, _LARGEST_SIDE_PX),
            degraded_reason=(
                "No model weights found; filling holes with OpenCV only, from nearby texture. For real quality see "
                "README, Models."
            ),
            runtime="opencv",
        )

    def inpaint(self, images: Sequence[Image], masks: Sequence[Mask]) -> list[Image]:
        """Each image with its mask's True pixels replaced; the others are the image's own."""
        return [_fill(image, mask) for image, mask in zip(images, masks, strict=True)]


def _fill(image: Image, hole: Mask) -> Image:
    filled = image.copy()
    if not hole.any():
        return filled
    box = _box(hole)
    picture, gap = image[box].astype(np.float32), hole[box]
    fill = fill_smoothly(picture, gap)
    if gap.sum() >= _SMALLEST_TEXTURED_PX and not gap.all():
        fill = copy_seamlessly(fill, gap, _shift_field(fill, gap))
    filled[box][gap] = np.rint(fill[gap]).clip(0, 255)
    return filled


def _box(hole: Mask) -> tuple[slice, slice]:
    """Rows and columns of the hole and of its context."""
    rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
    longer = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1
    context = max(_MIN_CONTEXT_PX, round(_CONTEXT_SHARE * longer))
    return (
        slice(max(0, int(rows[0]) - context), int(rows[-1]) + 1 + context),
        slice(max(0, int(columns[0]) - context), int(columns[-1]) + 1 + context),
    )


def _shift_field(smooth: _Float, hole: Mask) -> NDArray[np.intp]:
    """For each pixel of the hole how far away its copy is, (H, W, 2) as (y, x); zero where nothing can be copied.

    Args:
        smooth: float32, (H, W, 3), the picture with its hole filled smoothly.
        hole: bool, (H, W).
    """
    height, width = hole.shape
    box_px = np.ptp(np.flatnonzero(hole.any(axis=1)) + 1.0) * np.ptp(np.flatnonzero(hole.any(axis=0)) + 1.0)
    scale = min(1.0, _WORK_SIDE_PX / max(height, width), float((_WORK_HOLE_PX / max(box_px, 1.0)) ** 0.5))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(cv2.resize(smooth, size, interpolation=cv2.INTER_AREA), np.float32)
    gap = np.asarray(cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA), np.float32) > 0
    if gap.all():
        return np.zeros((height, width, 2), np.intp)
    shifts = dominant_shifts(small, ~gap, count=_SHIFTS)
    shifts = add_covering_shifts(shifts, gap, count=_COVERING_SHIFTS)
    labels = choose_shifts(small, gap, small, shifts)
    factors = np.array([height / size[1], width / size[0]])
    lengths = np.concatenate([np.rint(shifts * factors), [[0, 0]]]).astype(np.intp)  # label -1 is the last: stay
    lifted = cv2.resize(labels.astype(np.int16), (width, height), interpolation=cv2.INTER_NEAREST).astype(np.intp)
    return np.asarray(lengths[np.where(hole, lifted, -1)], np.intp)
