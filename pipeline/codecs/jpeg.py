"""JPEG files from images, for callers that ask for a small opaque picture."""

from __future__ import annotations

import cv2

from pipeline.types import Image


def encode_jpeg(pixels: Image, quality: int = 92) -> bytes:
    """A JPEG file of ``pixels`` (RGB, uint8, (H, W, 3)) without metadata; ``quality`` is 1 to 100."""
    # OpenCV takes BGR; Pillow would take RGB but needs twice the time.
    encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return encoded.tobytes()
