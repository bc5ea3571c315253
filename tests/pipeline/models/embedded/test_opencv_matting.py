"""The embedded matting engine finds a clear subject and admits when there is none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.models.embedded.opencv_matting import OpenCvMatting
from pipeline.types import Image, Mask

HEIGHT, WIDTH = OpenCvMatting().info.input_size_hw


def grass() -> Image:
    """Textured green ground."""
    noise = np.random.default_rng(7).normal(0, 14, (HEIGHT, WIDTH, 1))
    return np.clip(np.array([60, 120, 50]) + noise, 0, 255).astype(np.uint8)


def subject() -> Mask:
    """An upright ellipse off the centre."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, (WIDTH * 4 // 7, HEIGHT // 2), (WIDTH // 6, HEIGHT // 4), 0, 0, 360, 1, -1)
    return mask > 0


def photo() -> Image:
    image = grass()
    image[subject()] = (205, 90, 70)
    return image


def test_a_clear_subject_is_cut_out() -> None:
    alpha = OpenCvMatting().estimate_alpha([photo()])[0]
    found, truth = alpha > 127, subject()
    assert alpha.dtype == np.uint8
    assert alpha.shape == (HEIGHT, WIDTH)
    assert (found & truth).sum() / (found | truth).sum() > 0.95


def test_inside_is_opaque_and_the_far_background_is_clear() -> None:
    alpha = OpenCvMatting().estimate_alpha([photo()])[0]
    inside = cv2.erode(subject().astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    outside = cv2.dilate(subject().astype(np.uint8), np.ones((31, 31), np.uint8)) == 0
    assert alpha[inside].min() > 250
    assert alpha[outside].max() < 5


@pytest.mark.parametrize("name", ["flat", "gradient", "noise", "grass"])
def test_a_photo_without_subject_is_nearly_empty(name: str) -> None:
    ramp = np.linspace(10, 240, WIDTH)[None, :, None]
    image = {
        "flat": np.full((HEIGHT, WIDTH, 3), 128, np.uint8),
        "gradient": np.broadcast_to(ramp, (HEIGHT, WIDTH, 3)).astype(np.uint8),
        "noise": np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8),
        "grass": grass(),
    }[name]
    assert OpenCvMatting().estimate_alpha([image])[0].mean() < 3


def test_a_gray_subject_is_found() -> None:
    gray = cv2.cvtColor(cv2.cvtColor(photo(), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    gray[subject()] = 230
    found = OpenCvMatting().estimate_alpha([gray])[0] > 127
    assert (found & subject()).sum() / (found | subject()).sum() > 0.9


def test_read_only_images_give_the_same_alpha_every_time() -> None:
    image = photo()
    image.setflags(write=False)
    engine = OpenCvMatting()
    first, second = engine.estimate_alpha([image, image])
    assert np.array_equal(first, second)
    assert np.array_equal(first, OpenCvMatting().estimate_alpha([image])[0])


def test_it_says_that_better_exists() -> None:
    assert "README, Models" in (OpenCvMatting().info.degraded_reason or "")
