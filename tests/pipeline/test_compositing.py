"""A cut-out shows the subject and nothing else."""

import numpy as np
import pytest

from pipeline.compositing import compose_cutout, crop_cutout
from pipeline.errors import EmptyMask, ShapeMismatch


def photo(height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (height, width, 3), np.uint8)


def test_a_cutout_has_the_photo_s_colours_where_it_is_solid() -> None:
    image = photo()
    cutout = compose_cutout(image, np.ones((5, 7), np.float32))
    assert cutout.shape == (5, 7, 4)
    assert np.array_equal(cutout[..., :3], image)
    assert (cutout[..., 3] == 255).all()


def test_nothing_of_the_background_stays() -> None:
    alpha = np.zeros((5, 7), np.float32)
    alpha[2, 3] = 1
    cutout = compose_cutout(photo(), alpha)
    assert np.count_nonzero(cutout.any(axis=2)) == 1


@pytest.mark.parametrize(("alpha", "stored"), [(0.0019, 0), (0.0021, 1), (0.5, 128), (0.9979, 254), (0.9981, 255)])
def test_alpha_is_rounded(alpha: float, stored: int) -> None:
    cutout = compose_cutout(photo(), np.full((5, 7), alpha, np.float32))
    assert (cutout[..., 3] == stored).all()


def test_arguments_stay_as_they_were() -> None:
    image, alpha = photo(), np.full((5, 7), 0.5, np.float32)
    image.flags.writeable = alpha.flags.writeable = False
    compose_cutout(image, alpha)
    crop_cutout(image, alpha)


def test_a_crop_is_the_object_s_box_and_a_margin() -> None:
    image = photo(50, 70)
    mask = np.zeros((50, 70), np.bool_)
    mask[20:26, 30:39] = True
    crop = crop_cutout(image, mask)
    assert crop.shape == (26, 29, 4)
    core = np.s_[12:14, 12:17]  # two pixels inside the object's edge, which is smoothed
    assert np.array_equal(crop[core][..., :3], image[22:24, 32:37])
    assert (crop[core][..., 3] == 255).all()
    assert np.array_equal(crop[..., 3] > 127, mask[10:36, 20:49])


def test_a_crop_of_a_mask_has_no_stairs_at_its_edge() -> None:
    mask = np.zeros((50, 70), np.bool_)
    mask[20:26, 30:39] = True
    alpha = crop_cutout(photo(50, 70), mask)[..., 3]
    assert 128 <= alpha[12, 10] < 255  # the object's first column
    assert 0 < alpha[12, 9] < 128  # and the one before it


def test_a_crop_ends_where_the_photo_ends() -> None:
    mask = np.zeros((50, 70), np.bool_)
    mask[0, 0] = mask[3, 4] = True
    assert crop_cutout(photo(50, 70), mask, margin_px=2).shape == (6, 7, 4)


def test_a_crop_of_an_alpha_is_soft() -> None:
    alpha = np.zeros((5, 7), np.float32)
    alpha[2, 2:5] = 0.5, 1, 0.25
    crop = crop_cutout(photo(), alpha, margin_px=0)
    assert crop[..., 3].tolist() == [[128, 255, 64]]


def test_nothing_cannot_be_cropped() -> None:
    with pytest.raises(EmptyMask):
        crop_cutout(photo(), np.zeros((5, 7), np.bool_))


@pytest.mark.parametrize("function", [compose_cutout, crop_cutout])
def test_sizes_must_agree(function) -> None:
    with pytest.raises(ShapeMismatch):
        function(photo(), np.ones((7, 5), np.float32))
