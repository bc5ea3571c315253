"""How much a region looks like an object somebody tapped on: by colour and edges, without a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.types import Alpha8, Image, Mask

_Float = NDArray[np.float32]

_SIDE_PX: Final = 256
"""Longer side of the copy that regions are judged in."""

_CLEAR_EDGE: Final = 1.5
"""An edge is clear from this many times the picture's mean gradient."""

_RING_SHARE: Final = 0.35
"""Width of the surroundings that a region is compared with, as a share of the root of its area."""

_LIGHTNESS_BIN, _COLOUR_BIN = 32, 12
_BINS = 256 // _LIGHTNESS_BIN, 256 // _COLOUR_BIN + 1, 256 // _COLOUR_BIN + 1


@dataclass(frozen=True)
class ColourEdges:
    """A small copy of an image and where its colours change.

    Attributes:
        lab: Lab, uint8, (h, w, 3).
        gradient: float32, (h, w), length of the colour gradient, levels a pixel.
    """

    lab: Image
    gradient: _Float

    def shrink(self, probability: Alpha8) -> Mask:
        """What the probabilities (H, W) of the image take for the object, bool, (h, w)."""
        size = self.gradient.shape[1], self.gradient.shape[0]
        return np.asarray(cv2.resize(probability, size, interpolation=cv2.INTER_AREA) > 127, np.bool_)

    def place(self, points: NDArray[np.float32], size_hw: tuple[int, ...]) -> NDArray[np.intp]:
        """Points (N, 2) of an image of that size as pixels of the copy, intp, (N, 2), (x, y)."""
        height, width = self.gradient.shape
        scale = np.array([width / size_hw[1], height / size_hw[0]])
        pixels = np.clip(np.floor(points.reshape(-1, 2) * scale), 0, [width - 1, height - 1])
        return np.asarray(pixels, np.intp)


def find_edges(image: Image) -> ColourEdges:
    """The edges of an RGB image, uint8, (H, W, 3)."""
    height, width = image.shape[:2]
    scale = min(1.0, _SIDE_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    lab = np.asarray(cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2Lab), np.uint8)
    blurred = cv2.GaussianBlur(lab, (0, 0), 1.0).astype(np.float32)
    across, down = (cv2.Sobel(blurred, cv2.CV_32F, dx, 1 - dx, scale=0.125) for dx in (1, 0))
    return ColourEdges(lab, np.asarray(np.sqrt((across**2 + down**2).sum(axis=2)), np.float32))


def object_score(edges: ColourEdges, mask: Mask, taps: NDArray[np.intp]) -> float:
    """How much ``mask`` looks like an object, in [0, 1]; 0 for next to nothing and for nearly the whole picture.

    The mean of five simple signs, unweighted: fitted weights did worse on photos they were not fitted to.

    Args:
        edges: Of the picture, (H, W).
        mask: bool, (H, W).
        taps: intp, (N, 2), (x, y) of pixels inside ``mask``.
    """
    region = mask.astype(np.uint8)
    area = int(region.sum())
    if area < 4 or area > 0.95 * region.size:
        return 0.0
    framed = np.pad(region, 1)  # the picture's frame ends a region too
    contours, _ = cv2.findContours(framed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outlines = [np.asarray(contour, np.intp).reshape(-1, 2) - 1 for contour in contours]
    edge_strength, edge_share = _edges_along(np.concatenate(outlines), edges.gradient)
    hull_area = sum(float(cv2.contourArea(cv2.convexHull(contour))) for contour in contours)
    solidity = min(1.0, area / max(hull_area, 1.0))
    depth = np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, 3), np.float32)[1:-1, 1:-1]
    centrality = float(depth[taps[:, 1], taps[:, 0]].mean() / depth.max())  # people tap the middle of things
    signs = (edge_strength, edge_share, _contrast(edges.lab, region, area), solidity, centrality)
    return float(np.mean(signs))


def _edges_along(outline: NDArray[np.intp], gradient: _Float) -> tuple[float, float]:
    """Mean strength of the edges under an outline, and the share of it that has a clear one; each in [0, 1]."""
    height, width = gradient.shape
    x, y = outline[:, 0], outline[:, 1]
    inner = (x > 0) & (y > 0) & (x < width - 1) & (y < height - 1)
    if not inner.any():
        return 0.0, 0.0
    usual = max(float(gradient.mean()), 0.1)
    nearby = np.asarray(cv2.dilate(gradient, np.ones((3, 3), np.uint8)), np.float32)
    under = nearby[y[inner], x[inner]]
    return float((under / (under + 2.0 * usual)).mean()), float((under > _CLEAR_EDGE * usual).mean())


def _contrast(lab: Image, region: NDArray[np.uint8], area: int) -> float:
    """Share of colour that a region and its surroundings do not have in common, in [0, 1]."""
    ring_px = int(max(3.0, _RING_SHARE * area**0.5)) | 1
    x, y, width, height = cv2.boundingRect(region)
    around = np.s_[max(0, y - ring_px) : y + height + ring_px, max(0, x - ring_px) : x + width + ring_px]
    inside = region[around] > 0
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (ring_px, ring_px))
    ring = (cv2.dilate(region[around], disc) > 0) & ~inside
    if not ring.any():
        return 0.0
    lightness, a, b = np.moveaxis(lab[around].astype(np.intp) // [_LIGHTNESS_BIN, _COLOUR_BIN, _COLOUR_BIN], 2, 0)
    colours = np.ravel_multi_index((lightness, a, b), _BINS)
    shares = [np.bincount(colours[side], minlength=int(np.prod(_BINS))) / side.sum() for side in (inside, ring)]
    return 1.0 - float(np.sqrt(shares[0] * shares[1]).sum())
