"""Guarded engines answer as the engines in them, and memory that ends on them is an error that says so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pipeline.errors import GpuMemoryExhausted, Overloaded
from pipeline.models.birefnet.network import BiRefNet
from pipeline.models.birefnet.predictor import BiRefNetPredictor
from pipeline.models.birefnet.shape import TINY
from pipeline.models.guarded_engines import GuardedInpainting, GuardedMatting, GuardedSegmentation
from pipeline.models.lama.network import LamaGenerator
from pipeline.models.lama.predictor import LamaPredictor
from pipeline.models.memory import SystemMemory
from pipeline.models.mobile_sam.network import MobileSam
from pipeline.models.mobile_sam.predictor import MobileSamPredictor
from pipeline.protocols import InpaintingEngine, MattingEngine, SegmentationEngine
from pipeline.types import Image, Mask, Prompt
from tests.pipeline.models.mobile_sam.conftest import SHAPE as SMALL
from tests.pipeline.models.test_memory_guard import StubMemory

SIZE_HW = (64, 96)
ALLOCATOR = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9663676416 bytes."


def photos(count: int) -> list[Image]:
    return list(np.random.default_rng(5).integers(0, 256, (count, *SIZE_HW, 3), np.uint8))


def holes(count: int) -> list[Mask]:
    masks = np.zeros((count, *SIZE_HW), np.bool_)
    for i in range(count):
        masks[i, 10 + i : 30, 20:50] = True
    return list(masks)


def taps(count: int) -> list[Prompt]:
    return [Prompt(np.array([[10 + 7 * i, 20]], np.float32), np.ones(1, np.uint8)) for i in range(count)]


@pytest.fixture(scope="module")
def matting() -> BiRefNetPredictor:
    torch.manual_seed(1)
    return BiRefNetPredictor(BiRefNet(TINY), model_version="tiny", input_size_hw=SIZE_HW)


@pytest.fixture(scope="module")
def segmentation() -> MobileSamPredictor:
    torch.manual_seed(1)
    return MobileSamPredictor(MobileSam(SMALL))


@pytest.fixture(scope="module")
def inpainting() -> LamaPredictor:
    torch.manual_seed(1)
    return LamaPredictor(LamaGenerator(width=4, blocks=1), model_version="small")


def tight() -> StubMemory:
    """Room for one image at a time, if images take what the first one took."""
    return StubMemory("cpu", 10, *[10.0] * 20)


def close(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one.astype(int) - other.astype(int)).max() <= 1)  # the order of additions depends on the batch


def test_alphas_are_the_engine_s_own_whole_or_in_parts(matting: BiRefNetPredictor) -> None:
    expected = matting.estimate_alpha(photos(3))
    for memory in (SystemMemory(), tight()):
        engine: MattingEngine = GuardedMatting(matting, memory)
        engine.estimate_alpha(photos(1))
        assert all(map(close, engine.estimate_alpha(photos(3)), expected))
        assert engine.info == matting.info


def test_masks_are_the_engine_s_own_whole_or_in_parts(segmentation: MobileSamPredictor) -> None:
    embeddings = segmentation.embed(photos(3))
    expected = segmentation.decode(embeddings, taps(3), candidates=2)
    for memory in (SystemMemory(), tight()):
        engine: SegmentationEngine = GuardedSegmentation(segmentation, memory)
        engine.decode(engine.embed(photos(1)), taps(1))
        found = engine.decode(engine.embed(photos(3)), taps(3), candidates=2)
        assert [one.probabilities.shape for one in found] == [(2, *SIZE_HW)] * 3
        assert all(close(one.probabilities, other.probabilities) for one, other in zip(found, expected, strict=True))
        assert engine.info == segmentation.info


def test_fills_are_the_engine_s_own_whole_or_in_parts(inpainting: LamaPredictor) -> None:
    expected = inpainting.inpaint(photos(3), holes(3))
    for memory in (SystemMemory(), tight()):
        engine: InpaintingEngine = GuardedInpainting(inpainting, memory)
        engine.inpaint(photos(1), holes(1))
        assert all(map(close, engine.inpaint(photos(3), holes(3)), expected))
        assert engine.info == inpainting.info


def test_a_matting_image_is_taken_to_need_1200_mb_at_full_size(matting: BiRefNetPredictor) -> None:
    share = SIZE_HW[0] * SIZE_HW[1] / 1024**2
    with pytest.raises(GpuMemoryExhausted):
        GuardedMatting(matting, StubMemory("cuda", 1199 * share)).estimate_alpha(photos(1))
    GuardedMatting(matting, StubMemory("cuda", 1201 * share, 1)).estimate_alpha(photos(1))


class OutOfMemory:
    """An engine that works once, and then finds no memory."""

    def __init__(self, engine: MattingEngine) -> None:
        self._engine = engine
        self._calls = 0

    @property
    def info(self):
        return self._engine.info

    def estimate_alpha(self, images: Sequence[Image]):
        self._calls += 1
        if self._calls > 1:
            raise RuntimeError(ALLOCATOR)
        return self._engine.estimate_alpha(images)


def test_an_allocator_that_fails_on_the_cpu_is_told_as_too_little_memory(matting: BiRefNetPredictor) -> None:
    engine = GuardedMatting(OutOfMemory(matting), SystemMemory())
    engine.estimate_alpha(photos(1))
    with pytest.raises(Overloaded, match="Not enough memory"):
        engine.estimate_alpha(photos(2))


def test_a_gpu_without_room_hands_each_request_to_an_engine_on_the_cpu(matting: BiRefNetPredictor) -> None:
    made: list[int] = []

    def on_cpu() -> MattingEngine:
        made.append(1)
        return matting

    engine = GuardedMatting(OutOfMemory(matting), StubMemory("cuda", 1000, 1.0, 1.0), on_cpu)
    engine.estimate_alpha(photos(1))
    assert all(map(close, engine.estimate_alpha(photos(2)), matting.estimate_alpha(photos(2))))
    assert len(made) == 2
