"""GrabCut from seeds, the same every time."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.types import Image, Mask

_MIN_SAMPLES = 8
"""Each side's colour model is a mixture of five Gaussians; with fewer pixels OpenCV raises."""


def grabcut(image: Image, seeds: NDArray[np.uint8], *, rounds: int) -> Mask:
    """The foreground GrabCut finds in ``image``; where a side has hardly a pixel to learn from, the seeds themselves.

    Args:
        image: Three channels, uint8, (H, W, 3); any colour space.
        seeds: uint8, (H, W), of ``cv2.GC_BGD``, ``GC_FGD``, ``GC_PR_BGD`` and ``GC_PR_FGD``.
        rounds: Times that colour models and cut follow each other.

    Rother et al., "GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts", SIGGRAPH 2004.
    """
    labels = seeds.copy()
    probable = labels & 1
    if min(int(probable.sum()), int(probable.size - probable.sum())) >= _MIN_SAMPLES:
        cv2.setRNGSeed(0)  # its k-means starts from the thread's random numbers
        background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(image, labels, (0, 0, 1, 1), background, foreground, rounds, cv2.GC_INIT_WITH_MASK)
    return (labels & 1).astype(np.bool_)
