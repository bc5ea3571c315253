"""Photos become a model's size and never more than they were."""

import numpy as np
import pytest

from pipeline.resize import fit_within, stretch


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("size", "expected"), [((50, 70), (7, 10)), ((70, 50), (10, 7)), ((1, 300), (1, 10)), ((11, 7), (10, 6))]
)
def test_the_longer_side_shrinks_to_the_limit(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit_within(image(*size), 10).shape == (*expected, 3)


@pytest.mark.parametrize("size", [(5, 7), (10, 10), (1, 1)])
def test_a_small_image_is_not_enlarged(size: tuple[int, int]) -> None:
    small = image(*size)
    assert fit_within(small, 10) is small


def test_shrinking_averages() -> None:
    stripes = np.zeros((4, 6, 3), np.uint8)
    stripes[:, ::2] = 200
    assert (fit_within(stripes, 3) == 100).all()


@pytest.mark.parametrize("size_hw", [(5, 7), (7, 5), (20, 3), (40, 60), (1, 1)])
def test_stretching_reaches_any_size(size_hw: tuple[int, int]) -> None:
    stretched = stretch(image(10, 14), size_hw)
    assert stretched.shape == (*size_hw, 3)
    assert stretched.dtype == np.uint8


def test_stretching_one_side_only_interpolates() -> None:
    ramp = np.repeat(np.array([[[0] * 3, [100] * 3]], np.uint8), 6, axis=0)
    assert len(np.unique(stretch(ramp, (3, 8)))) > 2
