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
from pipeline.models.embedded.candidates import make_candidates
from pipeline.models.embedded.object_score import ColourEdges, find_edges
from pipeline.models.embedded.views import Look, View, predict, values_at, whole, within_image
from pipeline.models.embedded.weights import TrainedNetwork, load_weights
from pipeline.protocols import ImageEmbedding
from pipeline.types import Alpha, EngineInfo, Image, MaskCandidates, Prompt

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


@dataclass(frozen=True)
class EmbeddedEmbedding:
    """An image and what the network takes for its subject.

    Taps change the network's first layer, so nothing else can be computed ahead.

    Attributes:
        image: RGB, uint8, (H, W, 3).
        subject: float32, (S, S), probabilities without taps.
        edges: Where colours change.
    """

    image: Image
    subject: Alpha
    edges: ColourEdges

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]


class EmbeddedSegmentation:
    """Objects around taps from a small network whose weights come with the package."""

    def __init__(self, trained: TrainedNetwork | None = None) -> None:
        self._trained = trained or load_weights()

    @property
    def info(self) -> EngineInfo:
        return self._trained.engine_info(_LARGEST_SIDE_PX, "selecting objects")

    def embed(self, images: Sequence[Image]) -> list[ImageEmbedding]:
        """One ``EmbeddedEmbedding`` per image."""
        found = self._predict([whole(image) for image in images])
        return [
            EmbeddedEmbedding(image, subject, find_edges(image)) for image, subject in zip(images, found, strict=True)
        ]

    def decode(
        self, embeddings: Sequence[ImageEmbedding], prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        """Candidates for each prompt, best first. Positive points lie inside each candidate, negative ones outside.

        All prompts are looked at together: the whole image, then closer at what was found, then at parts.
        """
        own = [_own(embedding) for embedding in embeddings]
        first = [_first_view(embedding, prompt) for embedding, prompt in zip(own, prompts, strict=True)]
        looks = [
            Look(view, _with_subject(probability, embedding, view))
            for view, probability, embedding in zip(first, self._predict(first), own, strict=True)
        ]
        closer = [(index, view) for index, view in enumerate(map(_closer, looks)) if view is not None]
        parts = [(index, part) for index, view in enumerate(first) for part in _part_views(view)]
        found = self._predict([view for _, view in closer + parts])
        closer_looks: list[Look | None] = [None] * len(looks)
        part_looks: list[list[Look]] = [[] for _ in looks]
        for (index, view), probability in zip(closer, found, strict=False):
            closer_looks[index] = Look(view, probability)
        for (index, view), probability in zip(parts, found[len(closer) :], strict=True):
            part_looks[index].append(Look(view, probability))
        edges = [embedding.edges for embedding in own]
        return [
            make_candidates(*seen, limit=candidates)
            for seen in zip(looks, closer_looks, part_looks, prompts, edges, strict=True)
        ]

    def _predict(self, views: Sequence[View]) -> list[Alpha]:
        return predict(self._trained, views) if views else []


def _own(embedding: ImageEmbedding) -> EmbeddedEmbedding:
    if not isinstance(embedding, EmbeddedEmbedding):
        raise TypeError(f"This engine made no {type(embedding).__name__}")
    return embedding


def _first_view(embedding: EmbeddedEmbedding, prompt: Prompt) -> View:
    """The whole image with the prompt's taps; a box becomes the view, with some surroundings and a tap inside."""
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
    inner = within_image((left, top, right, bottom), (height, width))
    margin_px = round(0.15 * max(inner[2] - inner[0], inner[3] - inner[1]))
    return View(embedding.image, pad_box(inner, margin_px, (height, width)), positive, negative)


def _with_subject(probability: Alpha, embedding: EmbeddedEmbedding, view: View) -> Alpha:
    """The probabilities with a share of the subject's, where all taps agree that it is meant."""
    if view.box_xyxy != (0, 0, *embedding.size_hw[::-1]):
        return probability
    side = embedding.subject.shape[0]
    _, pieces = cv2.connectedComponents((embedding.subject > 0.5).astype(np.uint8))
    tapped = np.setdiff1d(values_at(pieces, view.positive, view.box_xyxy), [0])
    excluded = values_at(pieces, view.negative, view.box_xyxy)
    wanted = np.setdiff1d(tapped, excluded)
    if not len(wanted) or side != probability.shape[0]:
        return probability
    subject = np.where((pieces == 0) | np.isin(pieces, wanted), embedding.subject, 0)
    share = _SUBJECT_SHARE / (len(view.positive) + len(view.negative))
    return np.asarray((1 - share) * probability + share * subject, np.float32)


def _closer(look: Look) -> View | None:
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
    closer = within_image(padded, size_hw)
    if (closer[2] - closer[0]) * (closer[3] - closer[1]) > _ZOOM_BELOW * (right - left) * (bottom - top):
        return None
    return View(look.view.image, closer, look.view.positive, look.view.negative)


def _at_taps(look: Look) -> NDArray[np.bool_]:
    """What was found in the pieces that hold a positive tap, (S, S); the largest piece if none does."""
    _, labels = cv2.connectedComponents((look.probability > 0.5).astype(np.uint8))
    touched = np.setdiff1d(values_at(labels, look.view.positive, look.view.box_xyxy), [0])
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
        box = within_image((x - half, y - half, x + half, y + half), (height, width))
        views.append(View(view.image, box, view.positive, view.negative))
    return views
