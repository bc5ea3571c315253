"""Tap to select with the embedded network: look at the whole, then closer at what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InvalidPoint
from pipeline.masks import pad_box
from pipeline.models.embedded.views import View, lift_into_image, predict, whole
from pipeline.models.embedded.weights import TrainedNetwork, load_weights
from pipeline.protocols import ImageEmbedding
from pipeline.types import Alpha, Alpha8, BoxXYXY, EngineInfo, Image, MaskCandidates, Prompt

_LARGEST_SIDE_PX: Final = 1024
_SUBJECT_SHARE: Final = 0.2
"""Weight of the photo's subject in the answer to a single tap on it. More harms taps on parts."""
_ZOOM_BELOW: Final = 0.5
"""What is shorter than this share of a view, both ways, is looked at again from close by."""
_ZOOM_MARGIN: Final = 0.35
"""Surroundings in a closer view on each side, as a share of the object's longer side."""
_SMALLEST_VIEW_PX: Final = 48
_PART_SIDES: Final = (0.4, 0.2)
"""Sides of the views around the first tap that look for parts of a larger thing, as shares of the image's side."""
_PART_PRIOR: Final = 0.8
"""How likely a part is meant where a tap is on a part of something larger; scores of parts are scaled by it."""
_SAME_IOU: Final = 0.85
"""Candidates that overlap more are one answer."""
_TAP_RADIUS: Final = 0.006
"""What surely belongs to a tap, as a share of the image's longer side."""


@dataclass(frozen=True)
class EmbeddedEmbedding:
    """An image and what the network takes for its subject.

    Taps change the network's first layer, so nothing else can be computed ahead.

    Attributes:
        image: RGB, uint8, (H, W, 3).
        subject: float32, (S, S), probabilities without taps.
    """

    image: Image
    subject: Alpha

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]


class EmbeddedSegmentation:
    """Objects around taps from a small network whose weights come with the package."""

    def __init__(self, trained: TrainedNetwork | None = None) -> None:
        self._trained = trained or load_weights()

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            model_version=f"clearcut-embedded-{self._trained.version}",
            device="cpu",
            input_size_hw=(_LARGEST_SIDE_PX, _LARGEST_SIDE_PX),
            degraded_reason=(
                "No model weights found; selecting objects with the small network that comes with Clearcut. For finer "
                "edges see README, Models."
            ),
        )

    def embed(self, images: Sequence[Image]) -> list[ImageEmbedding]:
        """One ``EmbeddedEmbedding`` per image."""
        found = self._predict([whole(image) for image in images])
        return [EmbeddedEmbedding(image, subject) for image, subject in zip(images, found, strict=True)]

    def decode(
        self, embeddings: Sequence[ImageEmbedding], prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        """Candidates for each prompt, best first. Positive points lie inside each candidate, negative ones outside.

        All prompts are looked at together: the whole image, then closer at what was found, then at parts.
        """
        first = [_first_view(embedding, prompt) for embedding, prompt in zip(embeddings, prompts, strict=True)]
        looks = [
            _Look(view, _with_subject(probability, embedding, view))
            for view, probability, embedding in zip(first, self._predict(first), embeddings, strict=True)
        ]
        closer = [(index, view) for index, view in enumerate(map(_closer, looks)) if view is not None]
        parts = (
            [(index, view) for index, view in enumerate(first) for view in _part_views(view)] if candidates > 1 else []
        )
        found = self._predict([view for _, view in closer + parts])
        closer_looks: list[_Look | None] = [None] * len(looks)
        part_looks: list[list[_Look]] = [[] for _ in looks]
        for (index, view), probability in zip(closer, found, strict=False):
            closer_looks[index] = _Look(view, probability)
        for (index, view), probability in zip(parts, found[len(closer) :], strict=True):
            part_looks[index].append(_Look(view, probability))
        return [
            _candidates(*seen, limit=candidates) for seen in zip(looks, closer_looks, part_looks, prompts, strict=True)
        ]

    def _predict(self, views: Sequence[View]) -> list[Alpha]:
        return predict(self._trained, views) if views else []


@dataclass(frozen=True)
class _Look:
    """A view and the network's probabilities for it, (S, S)."""

    view: View
    probability: Alpha


def _first_view(embedding: ImageEmbedding, prompt: Prompt) -> View:
    """The whole image with the prompt's taps; a box becomes the view, with some surroundings and a tap inside."""
    if not isinstance(embedding, EmbeddedEmbedding):
        raise TypeError(f"This engine made no {type(embedding).__name__}")
    height, width = embedding.size_hw
    limit = np.array([width - 1, height - 1], np.float32)
    points = np.clip(prompt.points.reshape(-1, 2), 0, limit).astype(np.float32)
    positive, negative = points[prompt.labels == 1], points[prompt.labels != 1]
    if prompt.box_xyxy is None:
        if not len(positive):
            raise InvalidPoint("At least one point must be on the object.")
        return whole(embedding.image, positive, negative)
    left, top, right, bottom = prompt.box_xyxy
    if not len(positive):
        positive = np.clip(np.array([[(left + right) / 2, (top + bottom) / 2]], np.float32), 0, limit)
    inner = _within((left, top, right, bottom), (height, width))
    margin_px = round(0.15 * max(inner[2] - inner[0], inner[3] - inner[1]))
    return View(embedding.image, pad_box(inner, margin_px, (height, width)), positive, negative)


def _with_subject(probability: Alpha, embedding: ImageEmbedding, view: View) -> Alpha:
    """The probabilities with a share of the subject's, where all taps agree that it is meant."""
    if not isinstance(embedding, EmbeddedEmbedding) or view.box_xyxy != (0, 0, *embedding.size_hw[::-1]):
        return probability
    side = embedding.subject.shape[0]
    _, pieces = cv2.connectedComponents((embedding.subject > 0.5).astype(np.uint8))
    tapped = np.setdiff1d(_values_at(pieces, view.positive, view.box_xyxy), [0])
    excluded = _values_at(pieces, view.negative, view.box_xyxy)
    wanted = np.setdiff1d(tapped, excluded)
    if not len(wanted) or side != probability.shape[0]:
        return probability
    subject = np.where((pieces == 0) | np.isin(pieces, wanted), embedding.subject, 0)
    share = _SUBJECT_SHARE / (len(view.positive) + len(view.negative))
    return np.asarray((1 - share) * probability + share * subject, np.float32)


def _values_at(values: NDArray[np.generic], points: NDArray[np.float32], box_xyxy: BoxXYXY) -> NDArray[np.generic]:
    """``values`` (S, S) of a view, at points given in pixels of the image; those outside the view at its border."""
    side = values.shape[0]
    left, top, right, bottom = box_xyxy
    x = ((points[:, 0] - left) * side / (right - left)).astype(np.intp).clip(0, side - 1)
    y = ((points[:, 1] - top) * side / (bottom - top)).astype(np.intp).clip(0, side - 1)
    return np.asarray(values[y, x])


def _closer(look: _Look) -> View | None:
    """A view around what was found at the taps, None if that nearly fills the view already."""
    side = look.probability.shape[0]
    left, top, right, bottom = look.view.box_xyxy
    mask = _at_taps(look)
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if max(width, height) > _ZOOM_BELOW * side:
        return None
    scale_x, scale_y = (right - left) / side, (bottom - top) / side
    taps = look.view.positive
    box = (
        min(left + x * scale_x, float(taps[:, 0].min())),
        min(top + y * scale_y, float(taps[:, 1].min())),
        max(left + (x + width) * scale_x, float(taps[:, 0].max())),
        max(top + (y + height) * scale_y, float(taps[:, 1].max())),
    )
    longer = max(box[2] - box[0], box[3] - box[1])
    margin_px = max(_ZOOM_MARGIN * longer, (_SMALLEST_VIEW_PX - longer) / 2)
    padded = (box[0] - margin_px, box[1] - margin_px, box[2] + margin_px, box[3] + margin_px)
    size_hw = (look.view.image.shape[0], look.view.image.shape[1])
    closer = _within(padded, size_hw)
    if (closer[2] - closer[0]) * (closer[3] - closer[1]) > _ZOOM_BELOW * (right - left) * (bottom - top):
        return None
    return View(look.view.image, closer, look.view.positive, look.view.negative)


def _at_taps(look: _Look) -> NDArray[np.bool_]:
    """What was found in the pieces that hold a positive tap, (S, S); the largest piece if none does."""
    _, labels = cv2.connectedComponents((look.probability > 0.5).astype(np.uint8))
    touched = np.setdiff1d(_values_at(labels, look.view.positive, look.view.box_xyxy), [0])
    if not len(touched):
        touched = np.array([np.bincount(labels.ravel())[1:].argmax() + 1]) if labels.any() else touched
    return np.asarray(np.isin(labels, touched), np.bool_)


def _part_views(view: View) -> list[View]:
    """Views around the first tap of an image that was looked at whole."""
    height, width = view.image.shape[:2]
    if view.box_xyxy != (0, 0, width, height):
        return []
    x, y = view.positive[0].tolist()
    views = []
    for share in _PART_SIDES:
        half = max(_SMALLEST_VIEW_PX, share * max(height, width)) / 2
        box = _within((x - half, y - half, x + half, y + half), (height, width))
        views.append(View(view.image, box, view.positive, view.negative))
    return views


def _candidates(look: _Look, closer: _Look | None, parts: list[_Look], prompt: Prompt, *, limit: int) -> MaskCandidates:
    """What was found as candidates: the mean of both looks at the thing, and each look at a part."""
    lifted = [lift_into_image(_sure_of_taps(seen), seen.view) for seen in (look, *parts)]
    if closer is not None:
        lifted[0] = _agreed(lifted[0], lift_into_image(_sure_of_taps(closer), closer.view), closer.view.box_xyxy)
    if prompt.box_xyxy is not None:
        lifted = [_only_inside(probability, prompt.box_xyxy) for probability in lifted]
    lifted = [_keep_sides(probability, prompt) for probability in lifted]
    scores = [
        expected_iou(probability) * (1 if index == 0 else _PART_PRIOR) for index, probability in enumerate(lifted)
    ]
    kept: list[int] = []
    for index in sorted(range(len(lifted)), key=lambda k: -scores[k]):
        if len(kept) < limit and all(_iou(lifted[index], lifted[other]) < _SAME_IOU for other in kept):
            kept.append(index)
    return MaskCandidates(
        probabilities=np.stack([lifted[k] for k in kept]), scores=np.array([scores[k] for k in kept], np.float32)
    )


def _agreed(probability: Alpha8, closer: Alpha8, box_xyxy: BoxXYXY) -> Alpha8:
    """The mean of both inside the box, ``probability`` outside it."""
    left, top, right, bottom = box_xyxy
    inside = np.s_[top:bottom, left:right]
    agreed = probability.copy()
    agreed[inside] = (probability[inside].astype(np.uint16) + closer[inside] + 1) // 2
    return agreed


def _sure_of_taps(look: _Look) -> Alpha:
    """The probabilities, with odds raised alike everywhere if the network believes in none of the positive taps."""
    best = float(np.max(_values_at(look.probability, look.view.positive, look.view.box_xyxy)))
    if best > 0.5:
        return look.probability
    lift = (1 - best) / max(best, 1e-4)  # brings the best tap's odds to one
    odds = lift * look.probability / np.maximum(1 - look.probability, 1e-6)
    return np.asarray(odds / (1 + odds), np.float32)


def _keep_sides(probability: Alpha8, prompt: Prompt) -> Alpha8:
    """Positive points inside, negative ones outside, each with a small disc around it."""
    height, width = probability.shape
    radius_px = max(1, round(_TAP_RADIUS * max(height, width)))
    kept = probability.copy()
    points = np.clip(np.floor(prompt.points.reshape(-1, 2)), 0, [width - 1, height - 1]).astype(int)
    for wanted in (1, 0):  # negative ones last: where both are close, the discs overlap
        for (x, y), label in zip(points.tolist(), prompt.labels.reshape(-1).tolist(), strict=True):
            if label == wanted:
                on_object = kept[y, x] > 127
                if on_object != bool(wanted):
                    cv2.circle(kept, (x, y), radius_px, 255 if wanted else 0, -1)
    for (x, y), label in zip(points.tolist(), prompt.labels.reshape(-1).tolist(), strict=True):
        if label == 1 and kept[y, x] < 128:
            kept[y, x] = 255
    return kept


def _only_inside(probability: Alpha8, box_xyxy: tuple[float, float, float, float]) -> Alpha8:
    left, top, right, bottom = _within(box_xyxy, (probability.shape[0], probability.shape[1]))
    inside = np.zeros_like(probability)
    inside[top:bottom, left:right] = probability[top:bottom, left:right]
    return inside


def expected_iou(probability: Alpha8) -> float:
    """Overlap with the truth that the probabilities themselves promise for the mask they make, in [0, 1]."""
    mask = probability > 127
    inside = float(probability[mask].sum(dtype=np.float64)) / 255
    outside = float(probability[~mask].sum(dtype=np.float64)) / 255
    return inside / max(float(np.count_nonzero(mask)) + outside, 1.0)


def _iou(a: Alpha8, b: Alpha8) -> float:
    first, second = a > 127, b > 127
    return float((first & second).sum() / max(int((first | second).sum()), 1))


def _within(box_xyxy: tuple[float, float, float, float], size_hw: tuple[int, int]) -> BoxXYXY:
    """Whole pixels that the box touches inside an image; at least one each way."""
    height, width = size_hw
    left, top = min(max(0, int(box_xyxy[0])), width - 1), min(max(0, int(box_xyxy[1])), height - 1)
    right, bottom = min(width, int(np.ceil(box_xyxy[2]))), min(height, int(np.ceil(box_xyxy[3])))
    return left, top, max(right, left + 1), max(bottom, top + 1)
