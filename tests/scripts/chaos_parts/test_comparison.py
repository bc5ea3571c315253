"""What counts as whole, and as like the undisturbed file."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from scripts.chaos_parts.comparison import decode, differences


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 200, (40, 70, 3), np.uint8)


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((100, 100), np.uint8)
    mask[:50] = 255
    return mask


def test_the_same_bytes_do_not_differ(picture: np.ndarray) -> None:
    assert differences("full_inpainted.png", png(picture), png(picture)) == []


@pytest.mark.parametrize("cut", [1, 12, 500])
def test_a_file_that_ends_early_is_torn(picture: np.ndarray, cut: int) -> None:
    data = png(picture)
    assert decode(data[:-cut]) is None
    assert differences("full_inpainted.png", data[:-cut], data) == ["full_inpainted.png is torn"]


def test_a_file_with_a_hole_in_it_is_torn(picture: np.ndarray) -> None:
    data = bytearray(png(picture))
    data[60:2000] = bytes(1940)
    assert differences("full_inpainted.png", bytes(data), png(picture)) == ["full_inpainted.png is torn"]


def test_another_size_is_told(picture: np.ndarray) -> None:
    assert differences("cropped_0.png", png(picture[:39]), png(picture)) == [
        "cropped_0.png has the shape (39, 70, 3) instead of (40, 70, 3)"
    ]


@pytest.mark.parametrize(("step", "differs"), [(1, False), (2, True)])
def test_more_than_one_grey_level_is_too_much(picture: np.ndarray, step: int, differs: bool) -> None:
    assert bool(differences("inpainted_0.png", png(picture + step), png(picture))) is differs


@pytest.mark.parametrize(("pixels", "differs"), [(40, False), (60, True)])
def test_masks_overlap_by_99_percent(mask: np.ndarray, pixels: int, differs: bool) -> None:
    other = mask.copy()
    other[49, :pixels] = 0
    problems = differences("mask_0.png", png(other), png(mask))
    assert any("overlaps" in problem for problem in problems) is differs


def test_a_reference_that_is_no_picture_is_an_error() -> None:
    with pytest.raises(ValueError, match="undisturbed"):
        differences("mask_0.png", b"", b"")
