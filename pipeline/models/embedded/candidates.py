"""What was seen of a tapped thing, made into candidates: the whole, and the parts that may be meant instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from pipeline.models.embedded.object_score import ColourEdges, object_score
from pipeline.models.embedded.views import Look, lift_into_image, values_at, within_image
from pipeline.types import Alpha, Alpha8, BoxXYXY, MaskCandidates, Prompt

_OTHER_PRIOR: Final = 0.8
"""How likely something else than the first candidate is meant; scores of the others are scaled by it."""
_PART_MARGIN: Final = 0.12
"""A part is meant rather than the whole where it looks so much more like an object. Margins of 0.08 to 0.15 did nearly
the same on 100 validation photos and on ten taps of the development photos, half of them on parts."""
_PART_SHARE: Final = 0.4
"""Of the whole's area; what is larger is the whole seen again."""
_SAME_IOU: Final = 0.85
"""Candidates that overlap more are one answer."""
_TAP_RADIUS: Final = 0.006
"""What surely belongs to a tap, as a share of the image's longer side."""


def make_candidates(
    look: Look, closer: Look | None, parts: Sequence[Look], prompt: Prompt, edges: ColourEdges, *, limit: int
) -> MaskCandidates:
    """What was found as candidates, the one that is probably meant first, whatever the limit.

    Args:
        look: At the thing in its surroundings.
        closer: At the same from close by; the whole is the mean of both.
        parts: From so close that a part of the thing fills the view.
        prompt: What was tapped.
        edges: Of the image.
        limit: How many candidates at most.
    """
    lifted = [lift_into_image(_sure_of_taps(seen), seen.view) for seen in (look, *parts)]
    if closer is not None:
        lifted[0] = _agreed(lifted[0], lift_into_image(_sure_of_taps(closer), closer.view), closer.view.box_xyxy)
    if prompt.box_xyxy is not None:
        lifted = [_only_inside(probability, prompt.box_xyxy) for probability in lifted]
    lifted = [_keep_sides(probability, prompt) for probability in lifted]
    meant = _meant(lifted, prompt, edges)
    scores = [expected_iou(probability) for probability in lifted]
    others = [min(_OTHER_PRIOR * score, scores[meant]) for score in scores]
    kept = [meant]
    for index in sorted(set(range(len(lifted))) - {meant}, key=lambda k: -others[k]):
        if len(kept) < limit and all(_iou(lifted[index], lifted[other]) < _SAME_IOU for other in kept):
            kept.append(index)
    return MaskCandidates(
        probabilities=np.stack([lifted[k] for k in kept]),
        scores=np.array([scores[meant], *(others[k] for k in kept[1:])], np.float32),
    )


def _meant(lifted: Sequence[Alpha8], prompt: Prompt, edges: ColourEdges) -> int:
    """Index of the mask that the taps mean: the whole, or a part with all taps that looks much more like an object.

    Where something was excluded, what is left of the whole is meant: that is how a user corrects.
    """
    if prompt.box_xyxy is not None:
        return 0
    masks = [edges.shrink(probability) for probability in lifted]
    taps = edges.place(prompt.points[prompt.labels == 1], lifted[0].shape)
    whole_px = int(masks[0].sum())
    parts = [k for k in range(1, len(masks)) if 0 < masks[k].sum() < _PART_SHARE * whole_px]
    if not parts:
        return 0
    signs = {
        k: object_score(edges, masks[k], taps) if masks[k][taps[:, 1], taps[:, 0]].all() else 0.0 for k in (0, *parts)
    }
    best = max(parts, key=lambda k: signs[k])
    return best if signs[best] > signs[0] + _PART_MARGIN else 0


def _agreed(probability: Alpha8, closer: Alpha8, box_xyxy: BoxXYXY) -> Alpha8:
    """The mean of both inside the box, ``probability`` outside it."""
    left, top, right, bottom = box_xyxy
    inside = np.s_[top:bottom, left:right]
    agreed = probability.copy()
    agreed[inside] = (probability[inside].astype(np.uint16) + closer[inside] + 1) // 2
    return agreed


def _sure_of_taps(look: Look) -> Alpha:
    """The probabilities, with odds raised alike everywhere if the network believes in none of the positive taps."""
    best = float(np.max(values_at(look.probability, look.view.positive, look.view.box_xyxy)))
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
    left, top, right, bottom = within_image(box_xyxy, (probability.shape[0], probability.shape[1]))
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
