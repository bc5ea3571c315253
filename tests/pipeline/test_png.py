"""The PNG writer keeps every pixel."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image as PillowImage
from PIL import ImageCms

from pipeline.codecs import encode_jpeg, encode_png, png
from pipeline.errors import ShapeMismatch


def opened(data: bytes) -> PillowImage.Image:
    image = PillowImage.open(io.BytesIO(data), formats=["PNG"])
    image.load()
    return image


def shapes() -> st.SearchStrategy[tuple[int, ...]]:
    sides = st.integers(1, 40)
    return st.one_of(st.tuples(sides, sides), st.tuples(sides, sides, st.sampled_from([3, 4])))


@given(arrays.arrays(np.uint8, shapes()))
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_read_back(pixels: np.ndarray) -> None:
    assert np.array_equal(np.asarray(opened(encode_png(pixels))), pixels)


@pytest.mark.parametrize("kind", sorted(png._FILTERS))
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4), (300, 1100, 3)])
def test_every_filter_is_undone_by_a_reader(kind: int, shape: tuple[int, ...], monkeypatch) -> None:
    monkeypatch.setattr(png, "_choose_filter", lambda rows, channels: kind)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(np.asarray(opened(encode_png(pixels))), pixels)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_bands_packed_by_several_threads_are_one_picture(threads: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 40, (1501, 1500, 4), np.uint8)
    data = encode_png(pixels, threads=threads)
    assert data.count(b"IDAT") == min(threads, 4)  # 9 MB are worth four threads
    assert np.array_equal(np.asarray(opened(data)), pixels)


def test_a_view_is_written_like_its_copy() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    view = pixels[::-1, 1:, :3]
    assert encode_png(view) == encode_png(view.copy())


def test_read_only_pixels_are_written() -> None:
    pixels = np.zeros((5, 7, 3), np.uint8)
    pixels.flags.writeable = False
    assert opened(encode_png(pixels)).size == (7, 5)


def test_the_profile_is_carried() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert opened(encode_png(np.zeros((5, 7, 3), np.uint8), icc_profile=profile)).info["icc_profile"] == profile


def test_a_smooth_picture_is_filtered_and_a_chequered_one_is_not_blown_up() -> None:
    y, x = np.mgrid[0:300, 0:400]
    smooth = (x + y).astype(np.uint8)
    chequered = ((x // 16 + y // 16) % 2 * 255).astype(np.uint8)
    assert len(encode_png(smooth)) < smooth.size / 50
    assert len(encode_png(chequered)) < chequered.size / 50


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((5, 7, 2), np.uint8), np.zeros((5, 7), np.uint16), np.zeros((0, 7), np.uint8), np.zeros(5, np.uint8)],
)
def test_other_arrays_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ShapeMismatch):
        encode_png(pixels)


def test_jpeg_keeps_the_order_of_colours() -> None:
    pixels = np.full((16, 24, 3), (200, 100, 20), np.uint8)
    read = np.asarray(PillowImage.open(io.BytesIO(encode_jpeg(pixels))))
    assert np.abs(read.astype(int) - pixels).max() <= 3


def test_jpeg_of_lower_quality_is_smaller() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    assert len(encode_jpeg(pixels, quality=50)) < len(encode_jpeg(pixels, quality=95))
