"""Tap to select without a network: regions of several sizes around the tap, the most object-like one first."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InvalidPoint
from pipeline.models.embedded.grabcut import grabcut
from pipeline.models.embedded.object_score import object_score
from pipeline.models.embedded.region_tree import RegionTree, build_region_tree
from pipeline.protocols import ImageEmbedding
from pipeline.types import EngineInfo, Image, Mask, MaskCandidates, Prompt

_Float = NDArray[np.float32]

_LARGEST_SIDE_PX: Final = 1024
_WORK_SIDE_PX: Final = 256
_SUPERPIXEL_PX: Final = 8
_DISC_RADII: Final = (0.06, 0.12, 0.22)
"""Radii that GrabCut starts from, as shares of the working copy's longer side."""

_GRABCUT_ROUNDS: Final = 2
_MARGIN_PX: Final = 24
"""Sure background that GrabCut sees around what may be the object; the rest would only cost time."""

_CUT_SIDE_PX: Final = 160
"""GrabCut's time grows faster than its pixels: wide regions are cut in a smaller copy."""

_THREADS: Final = 4
_MAX_FILLED_SHARE: Final = 0.03
"""Holes up to this share of a mask, such as eyes and glints, belong to it."""

_SOFT_SIGMA_PX: Final = 1.0
_SOFTENED_FROM_PX: Final = 100
_EDGE_VARIANCE: Final = 60.0
_SAME_IOU: Final = 0.85
"""Candidates that overlap more are one answer."""


@dataclass(frozen=True)
class OpenCvEmbedding:
    """A picture made ready for taps: its luminance at full size, a small copy, that copy's edges and nested regions."""

    size_hw: tuple[int, int]
    luminance: NDArray[np.uint8]
    image: Image
    lab: Image
    gradient: _Float
    regions: RegionTree


class OpenCvSegmentation:
    """Objects around taps from colour and edges, for when no weights are at hand."""

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            model_version="opencv-embedded",
            device="cpu",
            input_size_hw=(_LARGEST_SIDE_PX, _LARGEST_SIDE_PX),
            degraded_reason=(
                "No model weights found; selecting objects with OpenCV only, by colour and edges. For real quality see "
                "README, Models."
            ),
        )

    def embed(self, images: Sequence[Image]) -> list[ImageEmbedding]:
        """One ``OpenCvEmbedding`` per image."""
        return [_embed(image) for image in images]

    def decode(
        self, embeddings: Sequence[ImageEmbedding], prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        """Candidates for each prompt, best first. Positive points lie inside each candidate, negative ones outside."""
        with ThreadPoolExecutor(max_workers=_THREADS) as threads:  # OpenCV lets go of the interpreter
            pairs = zip(embeddings, prompts, strict=True)
            return list(threads.map(lambda pair: _decode(pair[0], pair[1], candidates), pairs))


def _embed(image: Image) -> OpenCvEmbedding:
    height, width = image.shape[:2]
    scale = min(1.0, _WORK_SIDE_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    lab = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2Lab), np.uint8)
    gradient = _gradient(lab)
    regions = build_region_tree(lab, gradient, superpixel_px=_SUPERPIXEL_PX)
    luminance = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    return OpenCvEmbedding((height, width), luminance, small, lab, gradient, regions)


def _gradient(lab: Image) -> _Float:
    """Length of the colour gradient, levels a pixel, (H, W)."""
    blurred = cv2.GaussianBlur(lab, (0, 0), 1.0).astype(np.float32)
    across = cv2.Sobel(blurred, cv2.CV_32F, 1, 0, scale=0.125)
    down = cv2.Sobel(blurred, cv2.CV_32F, 0, 1, scale=0.125)
    return np.asarray(np.sqrt((across**2 + down**2).sum(axis=2)), np.float32)


@dataclass(frozen=True)
class _Seeds:
    """A prompt in the working copy's pixels: (N, 2) intp arrays of (x, y), and the box's inside or None."""

    inside: NDArray[np.intp]
    outside: NDArray[np.intp]
    box: Mask | None


def _decode(embedding: ImageEmbedding, prompt: Prompt, candidates: int) -> MaskCandidates:
    if not isinstance(embedding, OpenCvEmbedding):
        raise TypeError(f"This engine made no {type(embedding).__name__}")
    seeds = _seeds(embedding, prompt)
    found = [_respect(mask, seeds) for mask in _propose(embedding, seeds)]
    scored = [(object_score(embedding.lab, embedding.gradient, mask, seeds.inside), mask) for mask in found]
    scored.sort(key=lambda pair: -pair[0])
    best: list[tuple[float, Mask]] = []
    for score, mask in scored:
        if len(best) < candidates and all(_iou(mask, other) < _SAME_IOU for _, other in best):
            best.append((score, mask))
    return MaskCandidates(
        probabilities=np.stack([_lift(embedding, mask, prompt) for _, mask in best]),
        scores=np.array([score for score, _ in best], np.float32),
    )


def _seeds(embedding: OpenCvEmbedding, prompt: Prompt) -> _Seeds:
    height, width = embedding.image.shape[:2]
    scale = np.array([width / embedding.size_hw[1], height / embedding.size_hw[0]])
    points = np.clip(np.floor(prompt.points.reshape(-1, 2) * scale), 0, [width - 1, height - 1]).astype(np.intp)
    positive = prompt.labels.reshape(-1) == 1
    inside, outside = points[positive], points[~positive]
    box = None
    if prompt.box_xyxy is not None:
        x0, y0, x1, y1 = np.array(prompt.box_xyxy) * np.tile(scale, 2)
        box = np.zeros((height, width), np.bool_)
        box[max(0, int(y0)) : max(1, int(np.ceil(y1))), max(0, int(x0)) : max(1, int(np.ceil(x1)))] = True
        if not len(inside):
            rows, columns = np.nonzero(box)
            inside = np.array([[columns.mean(), rows.mean()]]).astype(np.intp)
    if not len(inside):
        raise InvalidPoint("At least one point must be on the object.")
    return _Seeds(inside, outside, box)


def _propose(embedding: OpenCvEmbedding, seeds: _Seeds) -> list[Mask]:
    """Regions of several sizes: one per level of the tree, one GrabCut per starting disc; all inside the box if any."""
    x, y = seeds.inside[0].tolist()
    nested = embedding.regions.regions_around(x, y)
    for x, y in seeds.inside[1:].tolist():  # several taps may be several parts: the union, level by level
        more = embedding.regions.regions_around(x, y)
        steps = max(len(nested), len(more))
        nested = [nested[level * len(nested) // steps] | more[level * len(more) // steps] for level in range(steps)]
    if seeds.box is not None:
        box = seeds.box
        return [_cut_box(embedding, box, seeds)] + [region & box for region in nested]
    return nested + [_cut_around_discs(embedding, seeds, radius) for radius in _DISC_RADII]


def _cut_around_discs(embedding: OpenCvEmbedding, seeds: _Seeds, radius: float) -> Mask:
    height, width = embedding.image.shape[:2]
    radius_px = max(2, round(radius * max(height, width)))
    labels = np.full((height, width), cv2.GC_BGD, np.uint8)
    for factor, value in ((3.0, cv2.GC_PR_BGD), (1.0, cv2.GC_PR_FGD), (0.3, cv2.GC_FGD)):
        for x, y in seeds.inside.tolist():
            cv2.circle(labels, (x, y), max(1, round(factor * radius_px)), value, -1)
    return _cut(embedding, labels, seeds)


def _cut_box(embedding: OpenCvEmbedding, box: Mask, seeds: _Seeds) -> Mask:
    return _cut(embedding, np.where(box, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8), seeds)


def _cut(embedding: OpenCvEmbedding, labels: NDArray[np.uint8], seeds: _Seeds) -> Mask:
    for x, y in seeds.outside.tolist():
        cv2.circle(labels, (x, y), 2, cv2.GC_BGD, -1)
    for x, y in seeds.inside.tolist():
        labels[y, x] = cv2.GC_FGD
    x, y, width, height = cv2.boundingRect((labels != cv2.GC_BGD).astype(np.uint8))
    around = np.s_[max(0, y - _MARGIN_PX) : y + height + _MARGIN_PX, max(0, x - _MARGIN_PX) : x + width + _MARGIN_PX]
    found = np.zeros(labels.shape, np.bool_)
    window, region = np.ascontiguousarray(embedding.image[around]), labels[around]
    size = region.shape[::-1]
    scale = min(1.0, _CUT_SIDE_PX / max(size))
    if scale < 1.0:
        smaller = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        window = np.asarray(cv2.resize(window, smaller, interpolation=cv2.INTER_AREA), np.uint8)
        region = np.asarray(cv2.resize(region, smaller, interpolation=cv2.INTER_NEAREST), np.uint8)
    cut = grabcut(window, region, rounds=_GRABCUT_ROUNDS).astype(np.float32)
    found[around] = cv2.resize(cut, size, interpolation=cv2.INTER_LINEAR) > 0.5
    return found


def _respect(mask: Mask, seeds: _Seeds) -> Mask:
    """The parts of ``mask`` that hold positive points, cut back around negative ones."""
    kept = mask.astype(np.uint8)
    for x, y in seeds.outside.tolist():
        cv2.circle(kept, (x, y), 2, 0, -1)
    kept[seeds.inside[:, 1], seeds.inside[:, 0]] = 1
    parts = np.asarray(cv2.connectedComponents(kept, connectivity=4)[1], np.intp)
    wanted = np.isin(parts, parts[seeds.inside[:, 1], seeds.inside[:, 0]])
    return _fill_small_holes(wanted, seeds)


def _fill_small_holes(mask: Mask, seeds: _Seeds) -> Mask:
    """``mask`` without holes of a small share of its area, but for those with a negative point."""
    _, gaps, stats, _ = cv2.connectedComponentsWithStats(np.pad(~mask, 1, constant_values=True).astype(np.uint8))
    gaps = np.asarray(gaps, np.intp)[1:-1, 1:-1]
    small = stats[:, cv2.CC_STAT_AREA] <= _MAX_FILLED_SHARE * mask.sum()
    small[0] = False  # the mask itself
    small[gaps[seeds.outside[:, 1], seeds.outside[:, 0]]] = False
    return np.asarray(mask | small[gaps], np.bool_)


def _iou(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / max(int((a | b).sum()), 1))


def _lift(embedding: OpenCvEmbedding, mask: Mask, prompt: Prompt) -> NDArray[np.uint8]:
    """The mask as probability at the embedded image's size, its border where the picture has an edge."""
    height, width = embedding.size_hw
    soft = mask.astype(np.float32)
    is_large = mask.sum() >= _SOFTENED_FROM_PX  # smoothing would wear away a few pixels
    if is_large:
        soft = np.asarray(cv2.GaussianBlur(soft, (0, 0), _SOFT_SIGMA_PX), np.float32)
    lifted = np.asarray(cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    if is_large:
        radius = max(2, round(2 * max(height, width) / max(mask.shape)))
        lifted = np.asarray(cv2.ximgproc.guidedFilter(embedding.luminance, lifted, radius, _EDGE_VARIANCE), np.float32)
    probability = np.rint(lifted.clip(0.0, 1.0) * 255.0).astype(np.uint8)
    pixels = np.clip(prompt.points.reshape(-1, 2), 0, [width - 1, height - 1]).astype(np.intp)
    for (x, y), label in zip(pixels.tolist(), prompt.labels.reshape(-1).tolist(), strict=True):
        probability[y, x] = 255 if label == 1 else 0
    return probability
