"""Cut-outs: foreground colours and alpha made one picture, whole or cropped to the object."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np

from pipeline.errors import ShapeMismatch
from pipeline.foreground import estimate_foreground
from pipeline.masks import mask_box, pad_box, smooth_alpha
from pipeline.types import Alpha, Cutout, Image, Mask

CROP_MARGIN_PX = 10


def compose_cutout(image: Image, alpha: Alpha) -> Cutout:
    """RGBA, uint8, (H, W, 4), of the foreground's own colours; what is fully transparent is black.

    Args:
        image: RGB, uint8, (H, W, 3).
        alpha: float32, (H, W), in [0, 1].

    Raises:
        ShapeMismatch: They differ in size.
    """
    cutout = cast(Cutout, cv2.cvtColor(estimate_foreground(image, alpha), cv2.COLOR_RGB2RGBA))
    alpha8 = cv2.convertScaleAbs(alpha, alpha=255)
    cv2.insertChannel(alpha8, cutout, 3)
    # No trace of the background stays in the file, and nothing packs better.
    return cast(Cutout, cv2.bitwise_and(cutout, cutout, mask=alpha8))


def crop_cutout(image: Image, shape: Alpha | Mask, margin_px: int = CROP_MARGIN_PX) -> Cutout:
    """The cut-out of one object: its box and ``margin_px`` more on every side, as far as the photo reaches.

    Args:
        image: RGB, uint8, (H, W, 3).
        shape: The object's alpha, float32, or mask, bool; (H, W). A mask's edges are smoothed, an alpha's are not.
        margin_px: Pixels around the object's box.

    Raises:
        ShapeMismatch: They differ in size.
        EmptyMask: ``shape`` shows nothing.
    """
    if image.shape[:2] != shape.shape:
        raise ShapeMismatch(f"Image {image.shape[:2]} and shape {shape.shape} differ in size.")
    box = mask_box(shape >= 0.5 / 255)
    left, top, right, bottom = pad_box(box, margin_px, (shape.shape[0], shape.shape[1]))
    cut = slice(top, bottom), slice(left, right)
    alpha = shape[cut].astype(np.float32)
    return compose_cutout(image[cut], smooth_alpha(alpha) if shape.dtype == np.bool_ else alpha)
