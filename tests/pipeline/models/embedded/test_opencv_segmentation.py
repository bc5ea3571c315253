"""The embedded segmentation engine selects what was tapped, whatever the picture's shape."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.errors import InvalidPoint
from pipeline.models.embedded.opencv_segmentation import OpenCvSegmentation
from pipeline.types import Image, Mask, MaskCandidates, Prompt

HEIGHT, WIDTH = 300, 420
LEFT, RIGHT = (120, 140), (290, 160)


def disc(centre_xy: tuple[int, int], radius_px: int = 60) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(mask, centre_xy, radius_px, 1, -1)
    return mask > 0


def picture() -> Image:
    """Two discs of different red on textured green ground."""
    noise = np.random.default_rng(5).normal(0, 12, (HEIGHT, WIDTH, 1))
    image = np.clip(np.array([70, 120, 60]) + noise, 0, 255).astype(np.uint8)
    image[disc(LEFT)] = (210, 60, 50)
    image[disc(RIGHT)] = (190, 90, 60)
    return image


def prompt(*points: tuple[float, float], labels: tuple[int, ...] = (), box: tuple[float, ...] | None = None) -> Prompt:
    wanted = labels or (1,) * len(points)
    corners = None if box is None else (box[0], box[1], box[2], box[3])
    return Prompt(np.array(points, np.float32).reshape(-1, 2), np.array(wanted, np.uint8), corners)


def select(image: Image, wanted: Prompt, candidates: int = 1) -> MaskCandidates:
    engine = OpenCvSegmentation()
    return engine.decode(engine.embed([image]), [wanted], candidates=candidates)[0]


def iou(found: MaskCandidates, truth: Mask) -> float:
    mask = found.probabilities[0] > 127
    return float((mask & truth).sum() / (mask | truth).sum())


def test_one_tap_selects_the_disc() -> None:
    assert iou(select(picture(), prompt(LEFT)), disc(LEFT)) > 0.93


def test_a_tap_off_the_centre_selects_the_same_disc() -> None:
    assert iou(select(picture(), prompt((LEFT[0] - 30, LEFT[1] + 25))), disc(LEFT)) > 0.9


def test_several_taps_select_several_parts() -> None:
    assert iou(select(picture(), prompt(LEFT, RIGHT)), disc(LEFT) | disc(RIGHT)) > 0.9


def test_a_negative_tap_excludes_the_neighbour() -> None:
    image = picture()
    cv2.rectangle(image, LEFT, RIGHT, (200, 75, 55), -1)  # a bridge between the two
    found = select(image, prompt(LEFT, RIGHT, labels=(1, 0)), candidates=4).probabilities
    assert (found[:, RIGHT[1], RIGHT[0]] < 128).all()
    assert (found[:, LEFT[1], LEFT[0]] > 127).all()


def test_a_small_hole_is_part_of_the_object_unless_tapped_as_not() -> None:
    image = picture()
    image[disc(LEFT, 6)] = (250, 250, 250)
    beside = (LEFT[0] + 35, LEFT[1])
    assert (select(image, prompt(beside)).probabilities[0] > 127)[disc(LEFT, 4)].all()
    assert select(image, prompt(beside, LEFT, labels=(1, 0))).probabilities[0, LEFT[1], LEFT[0]] < 128


def test_a_small_object_keeps_its_size() -> None:
    image = picture()
    small = disc((60, 250), 7)
    image[small] = (250, 250, 255)
    assert iou(select(image, prompt((60, 250))), small) > 0.7


def test_a_box_alone_selects_what_is_inside() -> None:
    box = (RIGHT[0] - 70.0, RIGHT[1] - 70.0, RIGHT[0] + 70.0, RIGHT[1] + 70.0)
    assert iou(select(picture(), prompt(box=box)), disc(RIGHT)) > 0.93


def test_candidates_are_ordered_and_no_more_than_asked_for() -> None:
    found = select(picture(), prompt(LEFT), candidates=3)
    assert found.probabilities.dtype == np.uint8
    assert found.probabilities.shape == (len(found.scores), HEIGHT, WIDTH)
    assert 1 <= len(found.scores) <= 3
    assert (np.diff(found.scores) <= 0).all()
    assert found.scores.min() >= 0
    assert found.scores.max() <= 1


@pytest.mark.parametrize("size_hw", [(64, 1024), (1024, 64), (1, 40), (40, 1), (1, 1), (2, 3), (5, 7), (33, 1000)])
def test_any_shape_answers_with_the_tapped_pixel(size_hw: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size_hw, 3), np.uint8)
    x, y = size_hw[1] - 1, size_hw[0] - 1
    found = select(image, prompt((x, y)), candidates=3)
    assert found.probabilities.shape[1:] == size_hw
    assert (found.probabilities[:, y, x] > 127).all()


def test_taps_on_the_frame_and_outside_it_are_kept_inside() -> None:
    corners = [(0, 0), (WIDTH - 1, HEIGHT - 1), (WIDTH + 50, -20)]
    for corner in corners:
        assert (select(picture(), prompt(corner)).probabilities > 127).any()


def test_a_flat_gray_picture_gives_a_mask_with_the_tap() -> None:
    found = select(np.full((90, 160, 3), 128, np.uint8), prompt((80, 45)))
    assert found.probabilities[0, 45, 80] == 255


def test_pictures_of_different_sizes_share_a_call() -> None:
    engine = OpenCvSegmentation()
    large, small = picture(), np.ascontiguousarray(picture()[:200, :240])
    found = engine.decode(engine.embed([large, small]), [prompt(RIGHT), prompt(LEFT)])
    assert [f.probabilities.shape for f in found] == [(1, HEIGHT, WIDTH), (1, 200, 240)]


def test_read_only_pictures_give_the_same_masks_every_time() -> None:
    image = picture()
    image.setflags(write=False)
    engine = OpenCvSegmentation()
    (embedding,) = engine.embed([image])
    several = engine.decode([embedding] * 3, [prompt(LEFT)] * 3, candidates=3)
    again = select(image, prompt(LEFT), candidates=3)
    assert all(np.array_equal(found.probabilities, again.probabilities) for found in several)


def test_without_a_positive_point_or_box_there_is_nothing_to_select() -> None:
    with pytest.raises(InvalidPoint):
        select(picture(), prompt(LEFT, labels=(0,)))
