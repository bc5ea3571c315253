"""Masks and alphas keep their place when they change size, and nothing outside the refinement's radius is touched."""

import cv2
import numpy as np
import pytest

from pipeline import masks
from pipeline.errors import EmptyMask
from pipeline.types import MaskQuality


def mask(height: int, width: int, box_xyxy: tuple[int, int, int, int]) -> np.ndarray:
    marked = np.zeros((height, width), np.bool_)
    left, top, right, bottom = box_xyxy
    marked[top:bottom, left:right] = True
    return marked


def disc(height: int, width: int, softness: float) -> np.ndarray:
    """The alpha of a disc in the middle, its edge ``softness`` pixels wide."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    distance = np.hypot(y - height / 2 + 0.5, x - width / 2 + 0.5)
    return np.clip((min(height, width) / 3 - distance) / softness + 0.5, 0, 1).astype(np.float32)


def two_tone(alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None]
    noise = np.random.default_rng(0).normal(0, 3, (*alpha.shape, 3))
    return np.clip(share * (200, 120, 40) + (1 - share) * (20, 60, 160) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size_hw", [(5, 7), (10, 14), (40, 21), (3, 20)])
def test_a_lifted_alpha_has_the_size_of_the_photo(size_hw: tuple[int, int]) -> None:
    photo = np.zeros((*size_hw, 3), np.uint8)
    alpha = masks.lift_alpha((disc(10, 14, 2) * 255).astype(np.uint8), photo)
    assert alpha.shape == size_hw
    assert alpha.dtype == np.float32
    assert alpha.min() >= 0
    assert alpha.max() <= 1


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("size_hw", [(50, 70), (5, 7)])
def test_an_alpha_without_edges_stays_exact(value: int, size_hw: tuple[int, int]) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)
    alpha = masks.lift_alpha(np.full((20, 28), value, np.uint8), photo)
    assert (alpha == value / 255).all()


def test_a_faint_alpha_is_not_stretched_to_its_extremes() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (60, 84, 3), np.uint8)
    faint = np.random.default_rng(1).integers(0, 4, (20, 28), np.uint8)
    assert masks.lift_alpha(faint, photo).max() <= 5 / 255


def test_far_from_edges_a_lifted_alpha_is_exact() -> None:
    truth = disc(200, 280, 2)
    small = cv2.resize((truth * 255).astype(np.uint8), (70, 50), interpolation=cv2.INTER_AREA)
    alpha = masks.lift_alpha(small, two_tone(truth))
    near = cv2.dilate(((truth > 0) & (truth < 1)).astype(np.uint8), np.ones((41, 41))) > 0
    assert np.array_equal(alpha[~near], truth[~near])


@pytest.mark.parametrize("factor", [2, 4])
def test_a_lifted_alpha_is_closer_to_the_truth_than_interpolation(factor: int) -> None:
    truth = disc(200, 280, 1.5)
    small_size = (280 // factor, 200 // factor)
    small = cv2.resize((truth * 255).astype(np.uint8), small_size, interpolation=cv2.INTER_AREA)
    interpolated = cv2.resize(small, (280, 200), interpolation=cv2.INTER_CUBIC) / 255
    lifted = masks.lift_alpha(small, two_tone(truth))
    assert np.abs(lifted - truth).sum() < 0.8 * np.abs(interpolated - truth).sum()


def test_averaged_down_a_lifted_alpha_says_what_the_model_said() -> None:
    truth = disc(200, 280, 3)
    small = cv2.resize((truth * 255).astype(np.uint8), (70, 50), interpolation=cv2.INTER_AREA)
    again = cv2.resize(masks.lift_alpha(small, two_tone(truth)), (70, 50), interpolation=cv2.INTER_AREA)
    assert np.abs(again - small / 255).max() < 0.15
    assert np.abs(again - small / 255).mean() < 0.003


def test_arguments_stay_as_they_were() -> None:
    small = (disc(50, 70, 2) * 255).astype(np.uint8)
    photo = two_tone(disc(100, 140, 2))
    soft = disc(50, 70, 3)
    for array in (small, photo, soft):
        array.flags.writeable = False
    masks.lift_alpha(small, photo)
    masks.smooth_alpha(soft)


def test_smoothing_leaves_the_solid_and_the_empty_exact() -> None:
    hard = mask(50, 70, (20, 10, 55, 40)).astype(np.float32)
    smooth = masks.smooth_alpha(hard, sigma_px=1.0)
    radius = np.ones((7, 7))
    assert (smooth[cv2.erode(hard, radius, borderValue=1) == 1] == 1).all()
    assert (smooth[cv2.dilate(hard, radius) == 0] == 0).all()
    assert not np.array_equal(smooth, hard)


def test_smoothing_makes_more_gradual_transitions() -> None:
    hard = mask(50, 70, (20, 10, 55, 40)).astype(np.float32)
    smooth = masks.smooth_alpha(hard)
    assert np.abs(np.diff(smooth, axis=1)).max() < np.abs(np.diff(hard, axis=1)).max()
    assert ((smooth > 0) & (smooth < 1)).any()


def test_smoothing_does_not_move_a_straight_edge() -> None:
    hard = mask(40, 60, (23, 0, 60, 40)).astype(np.float32)
    smooth = masks.smooth_alpha(hard, sigma_px=1.5)
    assert (smooth[:, :23] < 0.5).all()
    assert (smooth[:, 23:] > 0.5).all()
    assert np.allclose(smooth.sum(), hard.sum(), rtol=1e-3)


def test_an_object_at_the_border_stays_solid_there() -> None:
    assert (masks.smooth_alpha(np.ones((9, 13), np.float32), sigma_px=2) == 1).all()


@pytest.mark.parametrize("size_hw", [(20, 28), (40, 56), (5, 7)])
def test_a_lifted_mask_has_the_size_asked_for(size_hw: tuple[int, int]) -> None:
    lifted = masks.lift_mask((disc(20, 28, 4) * 255).astype(np.uint8), size_hw)
    assert lifted.shape == size_hw
    assert lifted.dtype == np.bool_
    assert lifted[size_hw[0] // 2, size_hw[1] // 2]
    assert not lifted[0, 0]


def test_one_half_is_the_border_of_a_mask() -> None:
    assert masks.lift_mask(np.array([[127, 128]], np.uint8), (1, 2)).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("size_hw", "pixels", "too_small"),
    [
        ((50, 70), 0, True),
        ((50, 70), 15, True),
        ((50, 70), 16, False),
        ((2000, 2000), 199, True),
        ((2000, 2000), 200, False),
    ],
)
def test_specks_are_too_small(size_hw: tuple[int, int], pixels: int, too_small: bool) -> None:
    speck = np.zeros(size_hw, np.bool_)
    speck.flat[:pixels] = True
    assert masks.is_too_small(speck) is too_small


def test_the_radius_grows_with_the_photo() -> None:
    assert masks.refine_radius_px((1024, 768)) == masks.refine_radius_px((768, 1024)) == 10
    assert masks.refine_radius_px((64, 64)) == 3


@pytest.mark.parametrize("radius_px", [0, 1, 2, 3, 10])
@pytest.mark.parametrize("box", [(20, 15, 30, 22), (0, 0, 4, 3), (69, 49, 70, 50), (0, 0, 70, 50)])
def test_refining_reaches_exactly_the_radius(radius_px: int, box: tuple[int, int, int, int]) -> None:
    object_mask = mask(50, 70, box)
    refined = masks.refine_mask(object_mask, radius_px)
    marked = np.argwhere(object_mask)
    y, x = np.mgrid[0:50, 0:70]
    squared = np.min([(y - my) ** 2 + (x - mx) ** 2 for my, mx in marked], axis=0)
    assert np.array_equal(refined.fill, squared <= radius_px**2)


@pytest.mark.parametrize("radius_px", [0, 1, 3, 10])
def test_weights_are_whole_on_the_object_and_fall_to_the_border(radius_px: int) -> None:
    object_mask = mask(50, 70, (30, 20, 45, 31))
    refined = masks.refine_mask(object_mask, radius_px)
    assert refined.weights.dtype == np.float32
    assert (refined.weights[object_mask] == 1).all()
    assert (refined.weights[~refined.fill] == 0).all()
    assert (refined.weights[refined.fill] > 0).all()
    row = refined.weights[25, 44:]
    assert (np.diff(row) <= 0).all()


def test_an_empty_mask_refines_to_nothing() -> None:
    refined = masks.refine_mask(np.zeros((5, 7), np.bool_))
    assert not refined.fill.any()
    assert not refined.weights.any()


@pytest.mark.parametrize("box", [(2, 1, 5, 4), (0, 0, 7, 5), (6, 4, 7, 5)])
def test_the_box_of_a_mask_is_exclusive_at_its_end(box: tuple[int, int, int, int]) -> None:
    assert masks.mask_box(mask(5, 7, box)) == box


def test_the_box_of_a_view_is_that_of_its_copy() -> None:
    assert masks.mask_box(mask(10, 14, (4, 2, 8, 6))[::2, ::2]) == (2, 1, 4, 3)


def test_an_empty_mask_has_no_box() -> None:
    with pytest.raises(EmptyMask):
        masks.mask_box(np.zeros((5, 7), np.bool_))


def test_a_padded_box_ends_where_the_image_ends() -> None:
    assert masks.pad_box((2, 1, 5, 4), 1, (5, 7)) == (1, 0, 6, 5)
    assert masks.pad_box((2, 1, 5, 4), 10, (5, 7)) == (0, 0, 7, 5)


def test_quality_tells_coverage_and_certainty_inside_the_mask() -> None:
    alpha = np.zeros((5, 7), np.uint8)
    alpha[1, 1:5] = 255
    alpha[2, 1:5] = 191  # three quarters sure, half way between a coin's throw and certainty
    quality = masks.measure_quality(alpha)
    assert quality.coverage == pytest.approx((4 * 255 + 4 * 191) / 255 / 35, abs=1e-3)
    assert quality.confidence == pytest.approx(0.75, abs=0.01)


def test_the_quality_of_an_empty_mask_is_nothing() -> None:
    assert masks.measure_quality(np.zeros((5, 7), np.uint8)) == MaskQuality(coverage=0, confidence=0)
