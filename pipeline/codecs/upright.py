"""Turning a picture the way its EXIF orientation says."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile

_ORIENTATION_TAG = 0x0112


def read_orientation(source: ImageFile.ImageFile) -> int:
    """1 to 8 as in EXIF; 1, upright as stored, if there is none or it cannot be read."""
    try:
        orientation = source.getexif().get(_ORIENTATION_TAG)
    except Exception:  # broken metadata is no reason to refuse the picture
        return 1
    return orientation if isinstance(orientation, int) else 1


def turn_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    turn = _TURNS.get(orientation)
    return pixels if turn is None else turn(pixels)


def _rotate(code: int) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    return lambda pixels: cast(NDArray[np.uint8], cv2.rotate(pixels, code))


def _flip(axis: int) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    return lambda pixels: cast(NDArray[np.uint8], cv2.flip(pixels, axis))


def _transpose(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cast(NDArray[np.uint8], cv2.transpose(pixels))


def _transverse(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return _transpose(cast(NDArray[np.uint8], cv2.rotate(pixels, cv2.ROTATE_180)))


# What undoes each EXIF orientation but 1.
_TURNS = {
    2: _flip(1),
    3: _rotate(cv2.ROTATE_180),
    4: _flip(0),
    5: _transpose,
    6: _rotate(cv2.ROTATE_90_CLOCKWISE),
    7: _transverse,
    8: _rotate(cv2.ROTATE_90_COUNTERCLOCKWISE),
}
