"""Background removal as one function: what the model sees, what comes out, and how long each stage took."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.codecs import ImageLimits
from pipeline.errors import FileTooLarge, ImageTooSmall, InvalidImage, ModelNotLoaded, UnsupportedFormat
from pipeline.operations.remove_background import remove_background
from pipeline.stages import StageClock
from pipeline.types import EngineInfo, Image, MattingResult
from tests.stub_models import MATTING_SIZE_HW, EllipseMatting, FailingMatting, decode, encode, photo

LIMITS = ImageLimits()


class ConstantMatting(EllipseMatting):
    """The same share of foreground everywhere."""

    def __init__(self, value: int) -> None:
        super().__init__()
        self._value = value

    async def alpha(self, image: Image) -> MattingResult:
        return MattingResult(np.full(image.shape[:2], self._value, np.uint8), "constant", 0.25, tensorrt=True)


@pytest.mark.parametrize(("height", "width"), [(64, 65), (90, 120), (300, 70)])
async def test_the_cutout_has_the_photos_own_size(height: int, width: int) -> None:
    removed = await remove_background(encode(photo(height, width)), matting=EllipseMatting(), limits=LIMITS)
    assert decode(removed.png).shape == (height, width, 4)
    assert (removed.height, removed.width) == (height, width)


async def test_the_model_sees_the_photo_stretched_to_its_input_size() -> None:
    matting = EllipseMatting()
    await remove_background(encode(photo()), matting=matting, limits=LIMITS)
    assert matting.seen == [(*MATTING_SIZE_HW, 3)]


async def test_a_photo_all_foreground_keeps_every_pixel() -> None:
    removed = await remove_background(encode(photo()), matting=ConstantMatting(255), limits=LIMITS)
    cutout = decode(removed.png)
    assert (cutout[..., 3] == 255).all()
    np.testing.assert_array_equal(cutout[..., :3], photo())


async def test_a_photo_without_foreground_is_transparent() -> None:
    removed = await remove_background(encode(photo()), matting=ConstantMatting(0), limits=LIMITS)
    assert not decode(removed.png)[..., 3].any()


async def test_the_answer_names_the_model_that_really_ran() -> None:
    removed = await remove_background(encode(photo()), matting=ConstantMatting(255), limits=LIMITS)
    assert (removed.model_version, removed.tensorrt) == ("constant", True)


async def test_a_rotated_photo_is_cut_out_upright() -> None:
    from PIL import Image as PillowImage

    exif = PillowImage.Exif()
    exif[0x0112] = 6
    removed = await remove_background(
        encode(photo(90, 120), "JPEG", exif=exif.tobytes()), matting=EllipseMatting(), limits=LIMITS
    )
    assert (removed.height, removed.width) == (120, 90)


async def test_the_photos_own_transparency_is_part_of_the_cutout() -> None:
    pixels = np.dstack([photo(), np.full((90, 120), 255, np.uint8)])
    pixels[:, :60, 3] = 102
    removed = await remove_background(encode(pixels), matting=ConstantMatting(255), limits=LIMITS)
    alpha = decode(removed.png)[..., 3]
    assert (alpha[:, :55] == 102).all()
    assert (alpha[:, 65:] == 255).all()


async def test_stages_are_counted_in_their_order() -> None:
    clock = StageClock()
    await remove_background(encode(photo()), matting=ConstantMatting(255), limits=LIMITS, clock=clock)
    assert list(clock.stages_ms) == ["decode", "resize", "wait", "infer", "refine", "compose", "encode"]


async def test_inference_is_what_the_engine_says_and_waiting_is_never_negative() -> None:
    clock = StageClock()
    await remove_background(encode(photo()), matting=ConstantMatting(255), limits=LIMITS, clock=clock)
    assert clock.stages_ms["infer"] == 250.0
    assert clock.stages_ms["wait"] == 0.0


@pytest.mark.parametrize(
    ("data", "limits", "error"),
    [
        (b"", LIMITS, InvalidImage),
        (b"%PDF-1.7", LIMITS, UnsupportedFormat),
        (encode(photo(63, 80)), LIMITS, ImageTooSmall),
        (encode(photo()), ImageLimits(max_bytes=100), FileTooLarge),
    ],
)
async def test_a_refused_photo_never_reaches_the_model(
    data: bytes, limits: ImageLimits, error: type[Exception]
) -> None:
    matting = EllipseMatting()
    with pytest.raises(error):
        await remove_background(data, matting=matting, limits=limits)
    assert matting.seen == []


async def test_a_declared_type_that_is_no_image_is_refused() -> None:
    with pytest.raises(UnsupportedFormat):
        await remove_background(
            encode(photo()), matting=EllipseMatting(), limits=LIMITS, declared_type="application/pdf"
        )


async def test_a_model_without_an_engine_says_so() -> None:
    with pytest.raises(ModelNotLoaded):
        await remove_background(encode(photo()), matting=FailingMatting(ModelNotLoaded("No.")), limits=LIMITS)


async def test_the_models_size_is_asked_of_the_model() -> None:
    class Wide(EllipseMatting):
        async def info(self) -> EngineInfo:
            return EngineInfo("wide", "cpu", (32, 96))

    matting = Wide()
    await remove_background(encode(photo()), matting=matting, limits=LIMITS)
    assert matting.seen == [(32, 96, 3)]
