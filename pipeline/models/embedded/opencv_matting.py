"""Foreground without a network: colours that are common in the middle and rare at the border, cut out by GrabCut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.models.embedded.grabcut import grabcut
from pipeline.types import Alpha8, EngineInfo, Image, Mask

_Float = NDArray[np.float32]

_INPUT_SIDE_PX: Final = 384
_WORK_SIDE_PX: Final = 192
"""GrabCut runs at this side: a quarter of the pixels, a fifth of the time; the guided filter brings back the edge."""

_COLOURS: Final = 32
_GRABCUT_ROUNDS: Final = 4
_MIN_PART_SHARE: Final = 0.08
"""A part of the foreground smaller than this share of its largest part is taken for clutter."""

_MIN_SUBJECT_SHARE: Final = 0.004
_MIN_SEPARATION: Final = 0.15
"""Below this distance between the two sides' colours (0 the same, 1 nothing in common) a photo has no subject."""

_MIN_EDGE_RATIO: Final = 1.3
_MIN_EDGE: Final = 4.0
"""An outline must follow edges: times the photo's mean gradient, and at least so many levels a pixel."""


class OpenCvMatting:
    """Automatic foreground from colour and position, for when no weights are at hand."""

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            model_version="opencv-embedded",
            device="cpu",
            input_size_hw=(_INPUT_SIDE_PX, _INPUT_SIDE_PX),
            degraded_reason=(
                "No model weights found; removing backgrounds with OpenCV only, which guesses the subject from colour "
                "and position. For real quality see README, Models."
            ),
        )

    def estimate_alpha(self, images: Sequence[Image]) -> list[Alpha8]:
        """One alpha per image, uint8, (H, W); nearly all 0 where no subject stands out."""
        return [_estimate_alpha(image) for image in images]


def _estimate_alpha(image: Image) -> Alpha8:
    small = np.asarray(cv2.resize(image, (_WORK_SIDE_PX, _WORK_SIDE_PX), interpolation=cv2.INTER_AREA), np.uint8)
    lab = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2Lab), np.uint8)
    colours = _quantise(lab)
    foreground = grabcut(small, _seeds(_prior(colours)), rounds=_GRABCUT_ROUNDS)
    foreground = _keep_large_parts(foreground)
    if foreground.mean() < _MIN_SUBJECT_SHARE or not _stands_out(lab, colours, foreground):
        return np.zeros(image.shape[:2], np.uint8)
    return _soften(image, foreground)


def _quantise(lab: Image) -> NDArray[np.intp]:
    """Index of the nearest of a few typical colours for each pixel, (H, W)."""
    samples = cv2.GaussianBlur(lab, (0, 0), 1.0)[::2, ::2].reshape(-1, 3).astype(np.float32)
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 8, 0.5)
    best_labels = np.zeros((len(samples), 1), np.int32)
    _, _, centres = cv2.kmeans(samples, _COLOURS, best_labels, stop, 1, cv2.KMEANS_PP_CENTERS)
    pixels = lab.reshape(-1, 3).astype(np.float32)
    distances = (centres**2).sum(axis=1) - 2.0 * pixels @ centres.T
    return np.asarray(distances.argmin(axis=1).reshape(lab.shape[:2]), np.intp)


def _prior(colours: NDArray[np.intp]) -> _Float:
    """Foreground probability, (H, W), from where a colour mostly lies and from the pixel's own place."""
    y, x = np.mgrid[-1 : 1 : colours.shape[0] * 1j, -1 : 1 : colours.shape[1] * 1j].astype(np.float32)
    # Subjects are often cut off by the lower edge, seldom by the others.
    reach = np.maximum(np.abs(x), np.where(y < 0, -y, 0.8 * y))
    centre = np.exp(-0.5 * ((x / 0.45) ** 2 + ((y - 0.1) / 0.55) ** 2))
    border = np.clip((reach - 0.80) / 0.15, 0.0, 1.0)
    inside = _colour_shares(colours, centre)
    outside = _colour_shares(colours, border)
    evidence = np.log((inside + 2e-3) / (outside + 2e-3))
    place = 2.0 * centre - 1.1 - 2.0 * border
    odds = cv2.GaussianBlur(evidence[colours], (0, 0), 2.0) + place
    return np.asarray(1.0 / (1.0 + np.exp(-odds)), np.float32)


def _colour_shares(colours: NDArray[np.intp], weights: _Float) -> _Float:
    """Each colour's share of the weight, (COLOURS,), adding up to 1."""
    sums = np.bincount(colours.ravel(), weights=weights.ravel(), minlength=_COLOURS)
    return np.asarray(sums / max(float(sums.sum()), 1e-6), np.float32)


def _seeds(prior: _Float) -> NDArray[np.uint8]:
    """GrabCut's labels: what is unlikely, or lies on an edge other than the lower one, is surely background."""
    seeds = np.where(prior > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    unlikely = prior < 0.04
    for edge in (np.s_[:2, :], np.s_[:, :2], np.s_[:, -2:]):
        unlikely[edge] |= prior[edge] < 0.6
    seeds[unlikely] = cv2.GC_BGD
    return seeds


def _keep_large_parts(foreground: Mask) -> Mask:
    """``foreground`` with hair-thin bridges opened, clutter dropped and small holes closed."""
    cleaned = cv2.morphologyEx(foreground.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    for part_value in (1, 0):
        count, labels, stats, _ = cv2.connectedComponentsWithStats((cleaned == part_value).astype(np.uint8))
        if count < 2:
            continue
        areas = stats[1:, cv2.CC_STAT_AREA]
        limit = _MIN_PART_SHARE * areas.max() if part_value else 0.02 * max(int(cleaned.sum()), 1)
        small = np.concatenate([[False], areas < limit])
        cleaned[small[labels]] = 1 - part_value
    return cleaned.astype(np.bool_)


def _stands_out(lab: Image, colours: NDArray[np.intp], foreground: Mask) -> bool:
    """Whether ``foreground`` differs from the rest in colour and ends at edges, as a real subject does."""
    gradient = _gradient(lab)
    outline = cv2.morphologyEx(foreground.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    if not outline.any():
        return False
    edge = float(gradient[outline].mean())
    follows_edges = edge > _MIN_EDGE and edge > _MIN_EDGE_RATIO * float(gradient.mean())
    return follows_edges and _separation(colours, foreground) > _MIN_SEPARATION


def _gradient(lab: Image) -> _Float:
    """Length of the colour gradient, levels a pixel, (H, W)."""
    blurred = cv2.GaussianBlur(lab, (0, 0), 1.0).astype(np.float32)
    across = cv2.Sobel(blurred, cv2.CV_32F, 1, 0, scale=0.125)
    down = cv2.Sobel(blurred, cv2.CV_32F, 0, 1, scale=0.125)
    return np.asarray(np.sqrt((across**2 + down**2).sum(axis=2)), np.float32)


def _separation(colours: NDArray[np.intp], foreground: Mask) -> float:
    """Share of colour the two sides do not have in common, in [0, 1]."""
    inside = _colour_shares(colours, foreground.astype(np.float32))
    outside = _colour_shares(colours, (~foreground).astype(np.float32))
    return 1.0 - float(np.sqrt(inside * outside).sum())


def _soften(image: Image, foreground: Mask) -> Alpha8:
    """Alpha at the size of ``image``: the mask's edge follows the photo's, soft over a few pixels."""
    height, width = image.shape[:2]
    mask = cv2.resize(foreground.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    mask = cv2.GaussianBlur(mask, (0, 0), 1.0)
    guided = cv2.ximgproc.guidedFilter(guide=image, src=mask, radius=5, eps=(0.02 * 255) ** 2)
    # The filter leaves a faint veil on both sides; far from the edge the mask is right.
    alpha = np.clip((guided - 0.08) / 0.84, 0.0, 1.0)
    return np.asarray(np.rint(alpha * 255.0), np.uint8)
