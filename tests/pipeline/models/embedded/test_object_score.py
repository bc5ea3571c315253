"""A region with clear edges of its own looks more like an object than one without."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.models.embedded.object_score import find_edges, object_score
from pipeline.types import Image, Mask

CENTRE = (200, 150)


def disc(radius_px: int, centre_xy: tuple[int, int] = CENTRE) -> Mask:
    mask = np.zeros((300, 420), np.uint8)
    cv2.circle(mask, centre_xy, radius_px, 1, -1)
    return mask > 0


def picture() -> Image:
    """A red disc on textured green ground."""
    noise = np.random.default_rng(5).normal(0, 12, (300, 420, 1))
    image = np.clip(np.array([70, 120, 60]) + noise, 0, 255).astype(np.uint8)
    image[disc(60)] = (210, 60, 50)
    return image


def score(image: Image, mask: Mask) -> float:
    edges = find_edges(image)
    return object_score(edges, edges.shrink(mask.astype(np.uint8) * 255), edges.place(np.array([CENTRE]), mask.shape))


@pytest.mark.parametrize("other", [disc(30), disc(100), disc(60, (230, 150))], ids=["too small", "too large", "beside"])
def test_the_thing_itself_scores_best(other: Mask) -> None:
    assert score(picture(), disc(60)) > score(picture(), other) + 0.1


def test_nothing_and_everything_score_zero() -> None:
    assert score(picture(), np.zeros((300, 420), np.bool_)) == 0
    assert score(picture(), np.ones((300, 420), np.bool_)) == 0


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 300), (700, 1300)])
def test_points_land_where_they_are_in_the_small_copy(size_hw: tuple[int, int]) -> None:
    edges = find_edges(np.zeros((*size_hw, 3), np.uint8))
    height, width = edges.gradient.shape
    assert max(height, width) <= 256
    corners = np.array([[0, 0], [size_hw[1], size_hw[0]]], np.float32)
    assert edges.place(corners, size_hw).tolist() == [[0, 0], [width - 1, height - 1]]
