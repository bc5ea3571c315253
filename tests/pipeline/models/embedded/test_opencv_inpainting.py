"""The embedded inpainting engine fills holes with what surrounds them and touches nothing else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.models.embedded.opencv_inpainting import OpenCvInpainting
from pipeline.types import Image, Mask

HEIGHT, WIDTH = 150, 210


def textured() -> Image:
    """Brown ground with a coarse weave and grain."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    weave = 25 * np.sin(x / 3.0) * np.sin(y / 4.0) + np.random.default_rng(2).normal(0, 10, (HEIGHT, WIDTH))
    return np.clip(np.array([150, 110, 80]) + weave[..., None], 0, 255).astype(np.uint8)


def sky() -> Image:
    ramp = np.linspace(120, 230, HEIGHT)[:, None, None]
    return np.broadcast_to(ramp + np.array([-40, -10, 20]), (HEIGHT, WIDTH, 3)).clip(0, 255).astype(np.uint8)


def hole(x: int = 110, y: int = 80, radius_px: int = 18, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> Mask:
    mask = np.zeros(size_hw, np.uint8)
    cv2.circle(mask, (x, y), radius_px, 1, -1)
    return mask > 0


def fill(image: Image, mask: Mask) -> Image:
    spoilt = image.copy()
    spoilt[mask] = (255, 0, 255)  # an object of a colour that must not bleed
    spoilt.setflags(write=False)
    mask.setflags(write=False)
    return OpenCvInpainting().inpaint([spoilt], [mask])[0]


def detail(image: Image, mask: Mask) -> float:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return float(np.abs(cv2.Laplacian(gray, cv2.CV_32F))[mask].mean())


def test_pixels_outside_the_mask_come_back_unchanged() -> None:
    image, mask = textured(), hole()
    assert np.array_equal(fill(image, mask)[~mask], image[~mask])


def test_nothing_of_the_object_is_left() -> None:
    filled = fill(textured(), hole()).astype(int)
    assert (filled[..., 2] < filled[..., 0]).all()  # magenta has as much blue as red; the ground has less


def test_smooth_ground_stays_smooth() -> None:
    mask = hole()
    assert np.abs(fill(sky(), mask).astype(int) - sky())[mask].max() <= 4


@pytest.mark.parametrize(("x", "y"), [(0, 0), (WIDTH - 1, 70), (100, HEIGHT - 1), (3, HEIGHT - 4)])
def test_holes_may_touch_the_frame(x: int, y: int) -> None:
    mask = hole(x, y)
    filled = fill(textured(), mask)
    assert np.abs(filled[mask].mean(axis=0) - textured()[~mask].mean(axis=0)).max() < 12


def test_an_empty_mask_gives_an_equal_copy() -> None:
    image = textured()
    filled = OpenCvInpainting().inpaint([image], [np.zeros((HEIGHT, WIDTH), np.bool_)])[0]
    assert np.array_equal(filled, image)
    assert not np.shares_memory(filled, image)


def test_a_hole_as_large_as_the_picture_is_filled_with_one_colour() -> None:
    filled = fill(textured(), np.ones((HEIGHT, WIDTH), np.bool_))
    assert filled.std() < 1


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 3), (5, 7), (64, 1024), (1024, 64), (1, 50), (12, 12)])
def test_any_shape_is_filled(size_hw: tuple[int, int]) -> None:
    image = np.full((*size_hw, 3), 90, np.uint8)
    filled = fill(image, hole(size_hw[1] // 2, size_hw[0] // 2, max(0, min(size_hw) // 3), size_hw))
    assert filled.shape == image.shape
    if min(size_hw) > 4:
        assert np.abs(filled.astype(int) - 90).max() <= 2


def test_one_pixel_is_filled_from_its_neighbours() -> None:
    mask = hole(50, 60, 0)
    assert mask.sum() == 1
    assert np.abs(fill(sky(), mask).astype(int) - sky())[mask].max() <= 2


def test_a_ring_of_known_pixels_is_enough() -> None:
    mask = np.ones((HEIGHT, WIDTH), np.bool_)
    mask[0], mask[-1], mask[:, 0], mask[:, -1] = False, False, False, False
    filled = fill(np.full((HEIGHT, WIDTH, 3), 70, np.uint8), mask)
    assert np.abs(filled.astype(int) - 70).max() <= 2


def test_pictures_of_different_sizes_share_a_call_and_gray_stays_gray() -> None:
    gray = np.repeat(textured()[..., :1], 3, axis=2)
    small, small_mask = np.ascontiguousarray(gray[:90, :130]), hole(60, 40, 12, (90, 130))
    first, second = OpenCvInpainting().inpaint([gray, small], [hole(), small_mask])
    assert first.shape == gray.shape
    assert second.shape == small.shape
    assert np.ptp(first.astype(int), axis=2).max() <= 1


def test_the_same_hole_is_filled_the_same_every_time() -> None:
    assert np.array_equal(fill(textured(), hole()), fill(textured(), hole()))


def test_texture_is_kept_where_telea_smears_it() -> None:
    image, mask = textured(), hole()
    telea = cv2.inpaint(image, mask.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    truth, ours = detail(image, mask), detail(fill(image, mask), mask)
    assert ours > 0.7 * truth
    assert ours > 1.5 * detail(telea, mask)


def test_a_straight_edge_goes_on_through_the_hole() -> None:
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    image[: HEIGHT // 2] = (200, 190, 180)
    filled = fill(image, hole(110, HEIGHT // 2))
    assert (np.abs(filled.astype(int) - image).max(axis=2) > 30).mean() < 0.004


def test_far_apart_holes_are_filled_together() -> None:
    image = np.tile(textured(), (3, 3, 1))
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[5:30, 5:30] = mask[-30:-5, -30:-5] = True
    filled = fill(image, mask)
    assert np.array_equal(filled[~mask], image[~mask])
    assert detail(filled, mask) > 0.6 * detail(image, mask)
