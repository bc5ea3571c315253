"""The embedded network selects what was tapped, whatever the picture's shape."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import InvalidPoint
from pipeline.models.embedded.candidates import expected_iou
from pipeline.models.embedded.neural_segmentation import EmbeddedSegmentation
from pipeline.types import Image, Mask, MaskCandidates, Prompt

HEIGHT, WIDTH = 300, 420
LEFT, RIGHT = (110, 140), (310, 160)


PHOTOS = Path(__file__).resolve().parents[3] / "data"
BADGE, BADGE_RADIUS_PX, JACKET = (171, 386), 37, (230, 330)
"""On the astronaut's photo, pixels."""


@pytest.fixture(scope="module")
def engine() -> EmbeddedSegmentation:
    return EmbeddedSegmentation()


def disc(centre_xy: tuple[int, int], radius_px: int = 60) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(mask, centre_xy, radius_px, 1, -1)
    return mask > 0


def picture(radius_px: int = 60) -> Image:
    """A red and a blue disc on textured green ground."""
    noise = np.random.default_rng(5).normal(0, 12, (HEIGHT, WIDTH, 1))
    image = np.clip(np.array([70, 120, 60]) + noise, 0, 255).astype(np.uint8)
    image[disc(LEFT, radius_px)] = (210, 60, 50)
    image[disc(RIGHT, radius_px)] = (60, 70, 190)
    return image


def prompt(*points: tuple[float, float], labels: tuple[int, ...] = (), box: tuple[float, ...] | None = None) -> Prompt:
    wanted = labels or (1,) * len(points)
    corners = None if box is None else (box[0], box[1], box[2], box[3])
    return Prompt(np.array(points, np.float32).reshape(-1, 2), np.array(wanted, np.uint8), corners)


def select(engine: EmbeddedSegmentation, image: Image, wanted: Prompt, candidates: int = 1) -> MaskCandidates:
    return engine.decode(engine.embed([image]), [wanted], candidates=candidates)[0]


def iou(found: MaskCandidates, truth: Mask) -> float:
    mask = found.probabilities[0] > 127
    return float((mask & truth).sum() / (mask | truth).sum())


@pytest.mark.parametrize("radius_px", [60, 15])
def test_one_tap_selects_one_of_two_things(engine: EmbeddedSegmentation, radius_px: int) -> None:
    for place in (LEFT, RIGHT):
        assert iou(select(engine, picture(radius_px), prompt(place)), disc(place, radius_px)) > 0.8


def astronaut() -> Image:
    return np.asarray(cv2.imread(str(PHOTOS / "astronaut.jpg"), cv2.IMREAD_COLOR_RGB), np.uint8)


def badge(image: Image) -> Mask:
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.circle(mask, BADGE, BADGE_RADIUS_PX, 1, -1)
    return mask > 0


def test_a_tap_on_a_badge_selects_the_badge_and_one_beside_it_the_person(engine: EmbeddedSegmentation) -> None:
    image = astronaut()
    embedding = engine.embed([image])[0]
    on_badge, on_jacket = engine.decode([embedding] * 2, [prompt(BADGE), prompt(JACKET)])
    assert iou(on_badge, badge(image)) > 0.7
    person = on_jacket.probabilities[0] > 127
    assert person.mean() > 0.25


def test_the_first_candidate_is_the_same_whatever_the_limit(engine: EmbeddedSegmentation) -> None:
    embedding = engine.embed([astronaut()])[0]
    for point in (BADGE, JACKET):
        one, several = (engine.decode([embedding], [prompt(point)], candidates=limit)[0] for limit in (1, 4))
        assert (one.probabilities[0] == several.probabilities[0]).all()
        assert len(one.scores) == 1 < len(several.scores)


def test_taps_on_both_select_both(engine: EmbeddedSegmentation) -> None:
    assert iou(select(engine, picture(), prompt(LEFT, RIGHT)), disc(LEFT) | disc(RIGHT)) > 0.8


def test_points_keep_their_sides(engine: EmbeddedSegmentation) -> None:
    taps = prompt(LEFT, (LEFT[0] + 20, LEFT[1]), (3, 3), labels=(1, 0, 1))
    found = select(engine, picture(), taps, candidates=4).probabilities
    assert (found[:, LEFT[1], LEFT[0]] > 127).all()
    assert (found[:, LEFT[1], LEFT[0] + 20] < 128).all()
    assert (found[:, 3, 3] > 127).all()


def test_a_box_alone_selects_what_is_inside(engine: EmbeddedSegmentation) -> None:
    box = (RIGHT[0] - 70.0, RIGHT[1] - 70.0, RIGHT[0] + 70.0, RIGHT[1] + 70.0)
    found = select(engine, picture(), prompt(box=box))
    assert iou(found, disc(RIGHT)) > 0.8
    assert not (found.probabilities[0][:, : RIGHT[0] - 70] > 0).any()


def test_candidates_are_ordered_and_no_more_than_asked_for(engine: EmbeddedSegmentation) -> None:
    found = select(engine, picture(), prompt(LEFT), candidates=3)
    assert found.probabilities.dtype == np.uint8
    assert found.probabilities.shape == (len(found.scores), HEIGHT, WIDTH)
    assert 1 <= len(found.scores) <= 3
    assert (np.diff(found.scores) <= 0).all()
    assert found.scores.min() >= 0
    assert found.scores.max() <= 1


def test_prompts_on_several_pictures_answer_as_alone(engine: EmbeddedSegmentation) -> None:
    pictures = [picture(), picture()[:200, :350]]
    prompts = [prompt(RIGHT), prompt(LEFT)]
    together = engine.decode(engine.embed(pictures), prompts)
    for image, wanted, found in zip(pictures, prompts, together, strict=True):
        alone = select(engine, image, wanted)
        assert found.probabilities.shape[1:] == image.shape[:2]
        assert np.abs(alone.probabilities.astype(int) - found.probabilities).max() <= 2


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 40), (40, 3), (7, 5)])
def test_tiny_pictures_and_taps_on_the_border_have_an_answer(
    engine: EmbeddedSegmentation, size_hw: tuple[int, int]
) -> None:
    height, width = size_hw
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = select(engine, image, prompt((width - 1, height - 1)), candidates=3)
    assert (found.probabilities[:, height - 1, width - 1] > 127).all()


def test_negative_points_alone_are_refused(engine: EmbeddedSegmentation) -> None:
    with pytest.raises(InvalidPoint):
        select(engine, picture(), prompt(LEFT, labels=(0,)))


def test_a_certain_mask_promises_full_overlap_and_a_faint_one_little() -> None:
    certain = np.where(disc(LEFT), 255, 0).astype(np.uint8)
    faint = np.where(disc(LEFT), 140, 100).astype(np.uint8)
    assert expected_iou(certain) == 1
    assert expected_iou(faint) < 0.2
    assert expected_iou(np.zeros((5, 7), np.uint8)) == 0
