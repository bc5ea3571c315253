"""Foreground colours without the background's share: what keeps cut-outs free of halos."""

from __future__ import annotations

from typing import TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ShapeMismatch
from pipeline.masks import mask_box, pad_box
from pipeline.types import Alpha, Image

Planes: TypeAlias = NDArray[np.float32]
"""Foreground and background as planes, float32, (2, 3, h, w), 0 to 255: NumPy is fastest where rows are longest."""

# Colours are smooth, alpha is not: they are solved for at this size, and only the last step sees every pixel. That is
# faster by far and, with the time put into iterations, closer to the truth than solving at full size.
SOLVED_SIDE_PX = 256
ITERATIONS = 12
# Colours around the soft edges take part, too: they are what the edges' colours are made of.
_MARGIN_SHARE = 0.03
_SMALLEST_SIDE_PX = 4
# How strongly neighbours pull each other: always a little, and more the more alpha changes between them.
_PULL = np.float32(2e-5)


def estimate_foreground(image: Image, alpha: Alpha) -> Image:
    """Foreground colours of ``image``, with the background's share taken out of soft edges.

    Args:
        image: RGB, uint8, (H, W, 3).
        alpha: float32, (H, W), in [0, 1].

    Returns:
        RGB, uint8, (H, W, 3); equal to ``image`` where ``alpha`` is 0 or 1.

    Raises:
        ShapeMismatch: ``image`` and ``alpha`` differ in height or width.

    Germer et al., "Fast Multi-Level Foreground Estimation", ICPR 2020; all pixels of a level step at once here.
    """
    if image.shape[:2] != alpha.shape:
        raise ShapeMismatch(f"Image {image.shape[:2]} and alpha {alpha.shape} differ in size.")
    # What rounds to 0 or 255 is as good as solid: nothing of the other side could be seen.
    soft = (alpha > 0.5 / 255) & (alpha < 254.5 / 255)
    foreground = image.copy()
    if not soft.any():
        return foreground
    margin_px = max(4, round(_MARGIN_SHARE * max(alpha.shape)))
    left, top, right, bottom = pad_box(mask_box(soft), margin_px, (alpha.shape[0], alpha.shape[1]))
    box = slice(top, bottom), slice(left, right)
    cut = np.ascontiguousarray(foreground[box])
    # Indices into flat arrays: NumPy picks scattered pixels several times faster by them than by a mask.
    index = np.flatnonzero(soft[box])
    cut.reshape(-1, 3)[index] = _estimate_at(index, cut, np.ascontiguousarray(alpha[box]))
    foreground[box] = cut
    return foreground


def _estimate_at(index: NDArray[np.intp], image: Image, alpha: Alpha) -> NDArray[np.uint8]:
    """Foreground colours of the pixels at ``index`` into the flat image, uint8, (N, 3)."""
    foreground, background = (
        cv2.resize(np.ascontiguousarray(side.transpose(1, 2, 0)), alpha.shape[::-1], interpolation=cv2.INTER_LINEAR)
        .reshape(-1, 3)
        .take(index, axis=0)
        for side in _solve_small(image, alpha)
    )
    share = alpha.ravel().take(index)[:, None]
    # The smallest change of both colours after which they make up the photo's pixel exactly.
    missing = image.reshape(-1, 3).take(index, axis=0) - share * foreground - (1 - share) * background
    found = foreground + share / (share * share + (1 - share) * (1 - share)) * missing
    return cast(NDArray[np.uint8], np.rint(np.clip(found, 0, 255)).astype(np.uint8))


def _solve_small(image: Image, alpha: Alpha) -> Planes:
    """Smooth foreground and background colours that make up the shrunk ``image``, found from coarse to fine."""
    sizes = _level_sizes((alpha.shape[0], alpha.shape[1]))
    finest = _shrink(image, alpha, sizes[0])
    levels = [finest, *(_shrink(*finest, size_hw) for size_hw in sizes[1:])]
    planes = None
    for level_image, level_alpha in reversed(levels):
        level_planes = np.ascontiguousarray(level_image.transpose(2, 0, 1), dtype=np.float32)
        start = np.stack([level_planes] * 2) if planes is None else _enlarge(planes, level_alpha.shape)
        planes = _relax(start, level_planes, level_alpha)
    return cast(Planes, planes)


def _level_sizes(size_hw: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes from ``SOLVED_SIDE_PX`` down to a few pixels, each half the one before."""
    shrink = min(1.0, SOLVED_SIDE_PX / max(size_hw))
    sizes = [(max(1, round(size_hw[0] * shrink)), max(1, round(size_hw[1] * shrink)))]
    while max(sizes[-1]) > _SMALLEST_SIDE_PX:
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def _shrink(image: Image, alpha: Alpha, size_hw: tuple[int, int]) -> tuple[Image, Alpha]:
    small_image = cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA)
    small_alpha = cv2.resize(alpha, size_hw[::-1], interpolation=cv2.INTER_AREA)
    return cast(Image, small_image), cast(Alpha, small_alpha)


def _enlarge(planes: Planes, size_hw: tuple[int, int]) -> Planes:
    """Every pixel four times, cut to ``size_hw``."""
    return planes.repeat(2, axis=2).repeat(2, axis=3)[:, :, : size_hw[0], : size_hw[1]]


def _relax(planes: Planes, image: NDArray[np.float32], alpha: Alpha) -> Planes:
    """``planes`` after some steps towards making up ``image`` while being smooth."""
    padded_alpha = np.pad(alpha, 1, "edge")
    pulls = [_PULL + np.abs(padded_alpha[view] - alpha) for view in _NEIGHBOURS]
    total = pulls[0] + pulls[1] + pulls[2] + pulls[3]
    shares = [pull / total for pull in pulls]
    parts = np.stack([alpha, 1 - alpha])[:, None]  # (2, 1, h, w)
    gain = parts / (parts[0] * parts[0] + parts[1] * parts[1] + total)
    padded = np.pad(planes, ((0, 0), (0, 0), (1, 1), (1, 1)), "edge")
    smooth, pulled = np.empty_like(planes), np.empty_like(planes)
    for _ in range(ITERATIONS):
        smooth[:] = 0
        for share, view in zip(shares, _NEIGHBOURS, strict=True):
            smooth += np.multiply(share, padded[:, :, *view], out=pulled)
        missing = image - parts[0] * smooth[0] - parts[1] * smooth[1]
        smooth += np.multiply(gain, missing, out=pulled)
        np.clip(smooth, 0, 255, out=padded[:, :, 1:-1, 1:-1])
        _repeat_border(padded)
    return padded[:, :, 1:-1, 1:-1]


def _repeat_border(padded: Planes) -> None:
    padded[:, :, 0], padded[:, :, -1] = padded[:, :, 1], padded[:, :, -2]
    padded[:, :, :, 0], padded[:, :, :, -1] = padded[:, :, :, 1], padded[:, :, :, -2]


_NEIGHBOURS = [
    (slice(0, -2), slice(1, -1)),
    (slice(2, None), slice(1, -1)),
    (slice(1, -1), slice(0, -2)),
    (slice(1, -1), slice(2, None)),
]
