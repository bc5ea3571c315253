"""Soft edges keep the subject's own colour, whatever was behind it."""

import cv2
import numpy as np
import pytest

from pipeline.errors import ShapeMismatch
from pipeline.foreground import estimate_foreground


def soft_disc(height: int, width: int, softness: float) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    distance = np.hypot(y - height / 2, x - width / 2)
    return np.clip((min(height, width) / 3 - distance) / softness + 0.5, 0, 1).astype(np.float32)


def subject(height: int, width: int) -> np.ndarray:
    """Smoothly varying warm colours with some texture."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    colours = np.dstack([150 + 60 * np.sin(x / 37), 90 + 40 * np.cos(y / 29), 60 + 20 * np.sin((x + y) / 41)])
    texture = np.random.default_rng(0).normal(0, 3, colours.shape)
    return np.clip(colours + texture, 0, 255)


def compose(foreground: np.ndarray, background: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None]
    return share * foreground + (1 - share) * background


@pytest.mark.parametrize("behind", [(0, 255, 0), (255, 0, 255), (255, 255, 255), (0, 0, 0)])
@pytest.mark.parametrize("softness", [3, 12, 40])
@pytest.mark.parametrize("size_hw", [(180, 240), (520, 700)])
def test_no_halo_is_seen_on_black_or_white(behind, softness, size_hw) -> None:
    alpha = soft_disc(*size_hw, softness)
    truth = subject(*size_hw)
    photo = np.rint(compose(truth, np.array(behind), alpha)).astype(np.uint8)
    estimated = estimate_foreground(photo, alpha)
    edge = (alpha > 0.02) & (alpha < 0.98)
    for page in (0, 255):
        wanted = compose(truth, np.full(3, page), alpha)[edge]
        error = np.abs(compose(estimated, np.full(3, page), alpha)[edge] - wanted).mean()
        naive = np.abs(compose(photo, np.full(3, page), alpha)[edge] - wanted).mean()
        assert error < 3.5
        assert error < 0.2 * naive


def test_colours_on_a_varied_background_are_found_as_well() -> None:
    alpha = soft_disc(180, 240, 10)
    truth = subject(180, 240)
    blobs = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    background = cv2.resize(blobs, (240, 180), interpolation=cv2.INTER_CUBIC)
    photo = np.rint(compose(truth, background, alpha)).astype(np.uint8)
    share = alpha[..., None]
    error = (share * np.abs(estimate_foreground(photo, alpha) - truth)).mean()
    assert error < 0.35 * (share * np.abs(photo - truth)).mean()


def test_solid_and_empty_pixels_come_back_unchanged() -> None:
    alpha = soft_disc(50, 70, 6)
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    estimated = estimate_foreground(photo, alpha)
    assert np.array_equal(estimated[alpha == 1], photo[alpha == 1])
    assert np.array_equal(estimated[alpha == 0], photo[alpha == 0])
    assert estimated.dtype == np.uint8


@pytest.mark.parametrize("value", [0, 1])
def test_without_soft_edges_the_photo_comes_back_as_a_copy(value: int) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    estimated = estimate_foreground(photo, np.full((5, 7), value, np.float32))
    assert np.array_equal(estimated, photo)
    assert not np.shares_memory(estimated, photo)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (5, 7), (3, 400)])
def test_any_size_works(size_hw: tuple[int, int]) -> None:
    photo = np.full((*size_hw, 3), (9, 99, 199), np.uint8)
    estimated = estimate_foreground(photo, np.full(size_hw, 0.5, np.float32))
    assert np.abs(estimated.astype(int) - photo).max() <= 1


def test_read_only_arguments_are_fine() -> None:
    photo, alpha = np.zeros((50, 70, 3), np.uint8), soft_disc(50, 70, 6)
    photo.flags.writeable = alpha.flags.writeable = False
    estimate_foreground(photo, alpha)


def test_sizes_must_agree() -> None:
    with pytest.raises(ShapeMismatch):
        estimate_foreground(np.zeros((5, 7, 3), np.uint8), np.zeros((7, 5), np.float32))
