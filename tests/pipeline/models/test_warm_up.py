"""An engine's first work: it passes what a working network may say, and stops what none can."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.errors import InferenceError
from pipeline.models.embedded.opencv_inpainting import OpenCvInpainting
from pipeline.models.warm_up import warm_up_inpainting, warm_up_matting, warm_up_segmentation
from pipeline.protocols import ImageEmbedding
from pipeline.types import Alpha8, EngineInfo, Image, Mask, MaskCandidates, Prompt

SIZE_HW = (40, 56)
INFO = EngineInfo("stub", "cpu", SIZE_HW)


class Constant:
    """An engine of all three kinds that gives one value everywhere, but for the pixels of ``besides``."""

    info = INFO

    def __init__(self, value: int, besides: slice = slice(0)) -> None:
        self._value = value
        self._besides = besides

    def _answer(self, shape: tuple[int, ...]) -> np.ndarray:
        answer = np.full(shape, self._value, np.uint8)
        answer.reshape(-1)[self._besides] = 90
        return answer

    def estimate_alpha(self, images: Sequence[Image]) -> list[Alpha8]:
        return [self._answer(image.shape[:2]) for image in images]

    def embed(self, images: Sequence[Image]) -> list[ImageEmbedding]:
        return [_Embedding(image.shape[0], image.shape[1]) for image in images]

    def decode(
        self, embeddings: Sequence[ImageEmbedding], prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        return [MaskCandidates(self._answer((1, *e.size_hw)), np.ones(1, np.float32)) for e in embeddings]

    def inpaint(self, images: Sequence[Image], masks: Sequence[Mask]) -> list[Image]:
        return [self._answer(image.shape) for image in images]


class _Embedding:
    def __init__(self, height: int, width: int) -> None:
        self.size_hw = (height, width)


WARM_UPS = pytest.mark.parametrize("warm_up", [warm_up_matting, warm_up_segmentation, warm_up_inpainting])


@WARM_UPS
@pytest.mark.parametrize("value", [1, 127, 128, 254])
def test_one_value_between_everything_and_nothing_is_no_answer(warm_up, value: int) -> None:
    with pytest.raises(InferenceError, match="the same everywhere"):
        warm_up(Constant(value))


@WARM_UPS
@pytest.mark.parametrize("engine", [Constant(0), Constant(255), Constant(127, besides=slice(0, None, 2))])
def test_nothing_everything_and_all_that_differs_are_answers(warm_up, engine: Constant) -> None:
    warm_up(engine)


def test_matting_gets_a_picture_of_its_own_size_with_something_on_it() -> None:
    seen: list[Image] = []

    class Watching(Constant):
        def estimate_alpha(self, images: Sequence[Image]) -> list[Alpha8]:
            seen.extend(images)
            return super().estimate_alpha(images)

    warm_up_matting(Watching(255))
    (image,) = seen
    assert image.shape == (*SIZE_HW, 3)
    assert image[20, 28].mean() < 60 < 100 < image[2:8, 2:50].mean()


def test_a_failure_of_the_engine_is_handed_on() -> None:
    class Failing(Constant):
        def embed(self, images: Sequence[Image]) -> list[ImageEmbedding]:
            raise InferenceError("Nothing.")

    with pytest.raises(InferenceError, match=r"Nothing\."):
        warm_up_segmentation(Failing(0))


def test_the_engine_without_weights_passes() -> None:
    warm_up_inpainting(OpenCvInpainting())
