"""Photos to a model's size and back to a smaller copy of themselves."""

from __future__ import annotations

from typing import cast

import cv2

from pipeline.types import Image


def fit_within(image: Image, max_side_px: int) -> Image:
    """``image``, shrunk so that its longer side has at most ``max_side_px`` pixels; never enlarged.

    RGB, uint8, (H, W, 3), as it came or as an average over the pixels that fall together.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer <= max_side_px:
        return image
    # Each side keeps at least one pixel, however narrow the picture.
    size_hw = max(1, round(height * max_side_px / longer)), max(1, round(width * max_side_px / longer))
    return stretch(image, size_hw)


def stretch(image: Image, size_hw: tuple[int, int]) -> Image:
    """``image`` at exactly ``size_hw``, whatever becomes of its proportions.

    Averages where both sides shrink and interpolates linearly where one grows: INTER_AREA would repeat pixels there.
    """
    height, width = size_hw
    if image.shape[:2] == (height, width):
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cast(Image, cv2.resize(image, (width, height), interpolation=interpolation))
