"""Removal: windows around the holes, fills pasted inside the refined mask, and not one pixel touched elsewhere."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import InferenceError
from pipeline.masks import refine_radius_px
from pipeline.operations.remove_object import WINDOW_SIDES_PX, remove_object
from pipeline.types import Image, Mask
from tests.stub_models import FILL, ColourInpainter, photo


def disc(size_hw: tuple[int, int], x: int, y: int, radius_px: int = 6) -> Mask:
    rows, columns = np.mgrid[0 : size_hw[0], 0 : size_hw[1]]
    return np.asarray(np.hypot(columns - x, rows - y) <= radius_px)


def distance_to(mask: Mask) -> NDArray[np.float32]:
    found = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(found, np.float32)


class WatchingInpainter(ColourInpainter):
    """Keeps what it was shown, and fills with the mean colour of what surrounds the hole."""

    def __init__(self, *, largest_px: int = 1024) -> None:
        super().__init__(largest_px=largest_px)
        self.shown: list[tuple[Image, Mask]] = []

    async def inpaint(self, image: Image, mask: Mask) -> Image:
        self.shown.append((image, mask))
        return await super().inpaint(image, mask)


@pytest.mark.parametrize("size_hw", [(90, 120), (300, 410), (64, 700)], ids=str)
@pytest.mark.parametrize("place", [(0.5, 0.5), (0, 0), (1, 1), (0.02, 0.97)], ids=str)
async def test_pixels_outside_the_refined_mask_come_back_unchanged(
    size_hw: tuple[int, int], place: tuple[float, float]
) -> None:
    image = photo(*size_hw)
    mask = disc(size_hw, round(place[0] * (size_hw[1] - 1)), round(place[1] * (size_hw[0] - 1)))
    result = await remove_object(image, mask, inpainter=ColourInpainter())
    away = distance_to(mask) > refine_radius_px(size_hw)
    np.testing.assert_array_equal(result[away], image[away])


async def test_the_object_is_filled_by_the_model() -> None:
    mask = disc((90, 120), 60, 45)
    result = await remove_object(photo(), mask, inpainter=ColourInpainter())
    assert (result[mask] == FILL).all()


async def test_the_photo_itself_stays_as_it_was() -> None:
    image = photo()
    image.flags.writeable = False  # as arrays from a handle are
    result = await remove_object(image, disc((90, 120), 60, 45), inpainter=ColourInpainter())
    np.testing.assert_array_equal(image, photo())
    assert result.flags.writeable


async def test_an_empty_mask_changes_nothing_and_asks_nobody() -> None:
    inpainter = ColourInpainter()
    result = await remove_object(photo(), np.zeros((90, 120), np.bool_), inpainter=inpainter)
    np.testing.assert_array_equal(result, photo())
    assert inpainter.windows == []


async def test_a_full_mask_fills_everything() -> None:
    result = await remove_object(photo(), np.ones((90, 120), np.bool_), inpainter=ColourInpainter())
    assert (result == FILL).all()


@pytest.mark.parametrize("size_hw", [(1, 9), (9, 1), (5, 7)], ids=str)
async def test_a_tiny_photo_is_filled_too(size_hw: tuple[int, int]) -> None:
    mask = np.zeros(size_hw, np.bool_)
    mask[0, 0] = True
    result = await remove_object(photo(*size_hw), mask, inpainter=ColourInpainter())
    assert result.shape == (*size_hw, 3)
    assert (result[0, 0] == FILL).all()


async def test_a_window_has_one_of_few_sizes() -> None:
    inpainter = ColourInpainter()
    for radius_px in (4, 40, 80, 120):
        await remove_object(photo(900, 1000), disc((900, 1000), 500, 450, radius_px), inpainter=inpainter)
    assert all(height == width and height in WINDOW_SIDES_PX for height, width, _ in inpainter.windows)
    assert len(set(inpainter.windows)) > 2


async def test_the_model_sees_the_hole_where_it_is_in_the_window() -> None:
    inpainter = WatchingInpainter()
    image, mask = photo(600, 800), disc((600, 800), 500, 300)
    await remove_object(image, mask, inpainter=inpainter)
    ((window, hole),) = inpainter.shown
    rows, columns = np.nonzero(hole)
    # Centred, since the photo is wide enough on all sides.
    assert abs(rows.mean() - window.shape[0] / 2) < 1.5
    assert abs(columns.mean() - window.shape[1] / 2) < 1.5


async def test_the_windows_pixels_are_the_photos() -> None:
    inpainter = WatchingInpainter()
    image = photo(600, 800)
    await remove_object(image, disc((600, 800), 500, 300), inpainter=inpainter)
    ((window, _),) = inpainter.shown
    side = window.shape[0]
    top, left = 300 - side // 2, 500 - side // 2
    near = [image[top + dy : top + dy + side, left + dx : left + dx + side] for dy in (0, 1) for dx in (0, 1)]
    assert any(np.array_equal(window, cut) for cut in near)


async def test_beyond_the_photos_edge_the_window_is_mirrored() -> None:
    inpainter = WatchingInpainter()
    image = photo(100, 400)
    await remove_object(image, disc((100, 400), 200, 50), inpainter=inpainter)
    ((window, _),) = inpainter.shown
    np.testing.assert_array_equal(window[100:120], window[80:100][::-1])


async def test_holes_far_apart_have_windows_of_their_own() -> None:
    inpainter = ColourInpainter()
    mask = disc((900, 1000), 80, 80) | disc((900, 1000), 900, 800)
    result = await remove_object(photo(900, 1000), mask, inpainter=inpainter)
    assert len(inpainter.windows) == 2
    assert (result[mask] == FILL).all()


async def test_holes_close_together_share_a_window() -> None:
    inpainter = ColourInpainter()
    mask = disc((300, 400), 180, 150) | disc((300, 400), 220, 150)
    await remove_object(photo(300, 400), mask, inpainter=inpainter)
    assert len(inpainter.windows) == 1


async def test_a_window_larger_than_the_model_takes_is_shrunk_and_its_fill_enlarged() -> None:
    inpainter = ColourInpainter(largest_px=256)
    mask = disc((700, 900), 450, 350, radius_px=200)
    image = photo(700, 900)
    result = await remove_object(image, mask, inpainter=inpainter)
    assert inpainter.windows == [(256, 256, 3)]
    assert (result[mask] == FILL).all()
    away = distance_to(mask) > refine_radius_px((700, 900))
    np.testing.assert_array_equal(result[away], image[away])


async def test_the_border_of_the_fill_is_blended() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    mask = disc((300, 400), 200, 150, radius_px=30)
    result = await remove_object(image, mask, inpainter=ColourInpainter())
    distance = distance_to(mask)
    ring = (distance > 0) & (distance <= refine_radius_px((300, 400)))
    assert np.unique(result[ring][:, 1]).size > 2
    assert result[ring][:, 1].max() <= FILL[1]


async def test_a_failed_model_is_told() -> None:
    class Failing(ColourInpainter):
        async def inpaint(self, image: Image, mask: Mask) -> Image:
            raise InferenceError("Model inference failed")

    with pytest.raises(InferenceError):
        await remove_object(photo(), disc((90, 120), 60, 45), inpainter=Failing())
