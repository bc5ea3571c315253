"""Pictures and prompts lie in the frame as SAM lays them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.errors import InvalidPoint
from pipeline.models.mobile_sam.frame import fit_in_frame, lift_logits, place_prompt
from pipeline.models.mobile_sam.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, PADDING
from pipeline.types import Prompt


@pytest.mark.parametrize(
    ("size_hw", "framed_hw"),
    [
        ((5, 7), (46, 64)),
        ((7, 5), (64, 46)),
        ((128, 64), (64, 32)),
        ((64, 64), (64, 64)),
        ((1, 64), (1, 64)),
        ((1, 500), (1, 64)),
    ],
)
def test_the_longer_side_fills_the_frame(size_hw: tuple[int, int], framed_hw: tuple[int, int]) -> None:
    assert fit_in_frame(np.zeros((*size_hw, 3), np.uint8), 64).shape == (*framed_hw, 3)


def test_a_picture_as_large_as_the_frame_is_left_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    assert np.array_equal(fit_in_frame(image, 64), image)


def test_points_move_with_the_picture_and_end_in_padding() -> None:
    prompt = Prompt(np.array([[10, 20], [3, 4]], np.float32), np.array([1, 0], np.uint8))
    points, labels = place_prompt(prompt, (50, 40), (100, 120))
    assert points.tolist() == [[30, 40], [9, 8], [0, 0]]
    assert labels.tolist() == [1, 0, PADDING]
    assert (points.dtype, labels.dtype) == (np.float32, np.int64)


def test_a_box_is_two_corners_without_padding() -> None:
    prompt = Prompt(np.array([[1, 1]], np.float32), np.array([1], np.uint8), (2.0, 3.0, 10.0, 20.0))
    points, labels = place_prompt(prompt, (10, 10), (20, 20))
    assert points.tolist() == [[2, 2], [4, 6], [20, 40]]
    assert labels.tolist() == [1, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]


@pytest.mark.parametrize("labels", [[], [0], [0, 0]])
def test_without_a_positive_point_or_box_there_is_nothing_to_select(labels: list[int]) -> None:
    prompt = Prompt(np.zeros((len(labels), 2), np.float32), np.array(labels, np.uint8))
    with pytest.raises(InvalidPoint):
        place_prompt(prompt, (10, 10), (20, 20))


def test_masks_lose_the_padding_and_get_the_pictures_size() -> None:
    logits = torch.full((1, 4, 8), 1.0).repeat(3, 2, 1)
    logits[:, 4:] = -1.0  # below the picture
    lifted = lift_logits(logits, 32, (16, 32), (5, 10))
    assert lifted.shape == (3, 5, 10)
    assert (lifted[:, :4] == 1).all()
