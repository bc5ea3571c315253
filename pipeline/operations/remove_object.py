"""Making objects vanish: a mask in, the photo without what it marks out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline import masks
from pipeline.protocols import Inpainter
from pipeline.types import BoxXYXY, Image, Mask

WINDOW_SIDES_PX = (256, 384, 512, 768, 1024)
"""Sides of the square windows models see: few sizes, so that holes of different photos meet in one batch."""

CONTEXT_SHARE = 0.5
"""Context around a hole on each side, as a share of the hole's longer side."""

MIN_CONTEXT_PX = 48


@dataclass(frozen=True)
class _Window:
    """A square cut of the photo: the holes it is for, where it lies, and its side, which may reach beyond the photo."""

    holes_xyxy: BoxXYXY
    box_xyxy: BoxXYXY
    side_px: int


async def remove_object(image: Image, mask: Mask, *, inpainter: Inpainter) -> Image:
    """``image`` with the marked pixels filled from their surroundings.

    Holes that lie apart are filled in windows of their own, in parallel. Every pixel farther than the refinement's
    radius from ``mask`` comes back unchanged, bit by bit.

    Args:
        image: RGB, uint8, (H, W, 3).
        mask: bool, (H, W); the object as found. It is refined (widened and softened) here.
        inpainter: Where the model runs.

    Raises:
        InferenceError: The model could not answer.
    """
    refined = await asyncio.to_thread(masks.refine_mask, mask)
    largest = min((await inpainter.info()).input_size_hw)
    windows = _windows(refined.fill, largest)

    async def fill(window: _Window) -> Image:
        cut, hole = await asyncio.to_thread(_cut, image, refined.fill, window, largest)
        return await inpainter.inpaint(cut, hole)

    fills = await asyncio.gather(*(fill(window) for window in windows))
    return await asyncio.to_thread(_paste, image, refined, windows, fills)


def _windows(fill: Mask, largest_px: int) -> list[_Window]:
    """Windows that hold every hole with its context once; holes whose windows touch share one."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(fill.astype(np.uint8), connectivity=8)
    boxes = [
        (int(x), int(y), int(x + w), int(y + h))
        for x, y, w, h in stats[1:count, :4]  # row 0 is the background
    ]
    merged = True
    while merged:
        boxes, merged = _merge_close(boxes)
    return [_window(box, fill.shape[:2], largest_px) for box in boxes]


def _context_px(box: BoxXYXY) -> int:
    return max(MIN_CONTEXT_PX, round(CONTEXT_SHARE * max(box[2] - box[0], box[3] - box[1])))


def _merge_close(boxes: list[BoxXYXY]) -> tuple[list[BoxXYXY], bool]:
    """One pass over ``boxes`` that joins those within each other's context; whether any were joined."""
    kept: list[BoxXYXY] = []
    merged = False
    for box in boxes:
        for index, other in enumerate(kept):
            reach = max(_context_px(box), _context_px(other))
            if (
                box[0] - reach < other[2]
                and other[0] - reach < box[2]
                and box[1] - reach < other[3]
                and other[1] - reach < box[3]
            ):
                kept[index] = (
                    min(box[0], other[0]),
                    min(box[1], other[1]),
                    max(box[2], other[2]),
                    max(box[3], other[3]),
                )
                merged = True
                break
        else:
            kept.append(box)
    return kept, merged


def _window(box: BoxXYXY, size_hw: tuple[int, int], largest_px: int) -> _Window:
    """The square around ``box``: one of ``WINDOW_SIDES_PX`` if it fits, kept inside the photo where it can be."""
    needed = max(box[2] - box[0], box[3] - box[1]) + 2 * _context_px(box)
    needed = min(needed, max(size_hw))
    side = next((s for s in WINDOW_SIDES_PX if s >= needed and s <= largest_px), needed)

    def place(low: int, high: int, length: int) -> int:
        start = (low + high - side) // 2
        return max(0, min(start, length - side)) if length >= side else 0

    x, y = place(box[0], box[2], size_hw[1]), place(box[1], box[3], size_hw[0])
    return _Window(box, (x, y, min(x + side, size_hw[1]), min(y + side, size_hw[0])), side)


def _cut(image: Image, fill: Mask, window: _Window, largest_px: int) -> tuple[Image, Mask]:
    """The window's pixels and holes, mirrored beyond the photo's edges and shrunk to the model's largest size."""
    x0, y0, x1, y1 = window.box_xyxy
    cut, hole = image[y0:y1, x0:x1], fill[y0:y1, x0:x1].astype(np.uint8)
    bottom, right = window.side_px - (y1 - y0), window.side_px - (x1 - x0)
    if bottom or right:
        beyond = ((0, bottom), (0, right))
        cut = np.pad(cut, (*beyond, (0, 0)), "symmetric")
        hole = np.pad(hole, beyond, "symmetric")
    if window.side_px > largest_px:
        size = (largest_px, largest_px)
        cut = np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), np.uint8)
        hole = (cv2.resize(hole * 255, size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    return np.ascontiguousarray(cut, dtype=np.uint8), hole.astype(np.bool_)


def _paste(image: Image, refined: masks.RefinedMask, windows: list[_Window], fills: list[Image]) -> Image:
    """The photo with each fill blended in, inside the refined mask only."""
    result = image.copy()
    for window, filled in zip(windows, fills, strict=True):
        if filled.shape[0] != window.side_px:
            filled = cv2.resize(filled, (window.side_px, window.side_px), interpolation=cv2.INTER_CUBIC).astype(
                np.uint8
            )
        left, top = window.box_xyxy[:2]
        x0, y0, x1, y1 = window.holes_xyxy  # a neighbour's hole in this window has a window of its own
        filled = filled[y0 - top : y1 - top, x0 - left : x1 - left]
        weights = refined.weights[y0:y1, x0:x1, None]
        blended = image[y0:y1, x0:x1] * (1.0 - weights) + filled * weights
        inside = refined.fill[y0:y1, x0:x1]
        result[y0:y1, x0:x1][inside] = np.rint(blended[inside]).astype(np.uint8)
    return result
