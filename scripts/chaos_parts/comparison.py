"""Whether a file is whole, and how far it is from the one an undisturbed service made."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from scripts.quality_metrics import iou

LEAST_IOU = 0.99
MOST_GREY_LEVELS = 1.0


def decode(data: bytes) -> NDArray[np.uint8] | None:
    """The picture with all its channels; None unless ``data`` is a whole PNG."""
    if not data.endswith(b"IEND\xaeB`\x82"):  # what a decoder that is kind to torn files would not tell
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return None if image is None else np.asarray(image, np.uint8)


def differences(name: str, found: bytes, reference: bytes) -> list[str]:
    """What is wrong with a file that should be like ``reference``; empty if nothing is.

    Raises:
        ValueError: The reference itself is no whole picture.
    """
    wanted = decode(reference)
    if wanted is None:
        raise ValueError(f"The undisturbed {name} is no whole PNG.")
    if found == reference:
        return []
    picture = decode(found)
    if picture is None:
        return [f"{name} is torn"]
    if picture.shape != wanted.shape:
        return [f"{name} has the shape {picture.shape} instead of {wanted.shape}"]
    problems = []
    overlap = iou(picture > 127, wanted > 127)
    if name.startswith("mask_") and overlap < LEAST_IOU:
        problems.append(f"{name} overlaps with its like by {overlap:.4f}")
    difference = float(np.abs(picture.astype(np.int16) - wanted).mean())
    if difference > MOST_GREY_LEVELS:
        problems.append(f"{name} differs by {difference:.2f} grey levels")
    return problems
