"""The embedded network finds the subject of a picture, and none where there is none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.models.embedded.neural_matting import EmbeddedMatting
from pipeline.types import Image, Mask


@pytest.fixture(scope="module")
def engine() -> EmbeddedMatting:
    return EmbeddedMatting()


def disc(side_px: int, centre_xy: tuple[float, float], radius: float) -> Mask:
    mask = np.zeros((side_px, side_px), np.uint8)
    centre = round(centre_xy[0] * side_px), round(centre_xy[1] * side_px)
    cv2.circle(mask, centre, round(radius * side_px), 1, -1)
    return mask > 0


def picture(side_px: int, mask: Mask | None) -> Image:
    """A textured red thing on smooth green ground."""
    noise = np.random.default_rng(5).normal(0, 10, (side_px, side_px, 1))
    image = np.clip(np.array([90, 130, 80]) + cv2.GaussianBlur(noise, (0, 0), 3)[..., None] * 3, 0, 255)
    if mask is not None:
        image[mask] = np.clip(np.array([200, 60, 50]) + noise[mask], 0, 255)
    return image.astype(np.uint8)


def test_a_single_thing_is_the_subject(engine: EmbeddedMatting) -> None:
    side_px = engine.info.input_size_hw[0]
    mask = disc(side_px, (0.45, 0.5), 0.25)
    alpha = engine.estimate_alpha([picture(side_px, mask)])[0]
    assert alpha.shape == (side_px, side_px)
    assert alpha.dtype == np.uint8
    found = alpha > 127
    assert (found & mask).sum() / (found | mask).sum() > 0.85


def test_plain_ground_has_next_to_no_alpha(engine: EmbeddedMatting) -> None:
    side_px = engine.info.input_size_hw[0]
    alpha = engine.estimate_alpha([np.full((side_px, side_px, 3), 120, np.uint8)])[0]
    assert alpha.mean() < 0.05 * 255


def test_a_batch_answers_as_single_pictures_do(engine: EmbeddedMatting) -> None:
    side_px = engine.info.input_size_hw[0]
    pictures = [picture(side_px, disc(side_px, (x, 0.4), 0.12)) for x in (0.3, 0.6)]
    together = engine.estimate_alpha(pictures)
    for one, alpha in zip(pictures, together, strict=True):
        assert np.abs(engine.estimate_alpha([one])[0].astype(int) - alpha).max() <= 2


def test_read_only_pictures_are_taken(engine: EmbeddedMatting) -> None:
    side_px = engine.info.input_size_hw[0]
    image = picture(side_px, disc(side_px, (0.5, 0.5), 0.2))
    before = image.copy()
    image.flags.writeable = False
    engine.estimate_alpha([image])
    assert (image == before).all()


def test_the_model_says_its_version(engine: EmbeddedMatting) -> None:
    assert engine.info.model_version.startswith("clearcut-embedded-")
