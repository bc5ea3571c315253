"""Engines of this process behind the models' protocols: the operations run on them without a cluster."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.in_process import InProcessInpainter, InProcessMatting, InProcessSegmenter
from pipeline.protocols import ImageEmbedding
from pipeline.types import Alpha8, EngineInfo, Image, Mask, MaskCandidates, Prompt

INFO = EngineInfo("stub", "cpu", (5, 7), tensorrt=True)
IMAGE = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


@dataclass(frozen=True)
class Embedding:
    size_hw: tuple[int, int]


class Engine:
    """All three engines in one; remembers the threads it ran on."""

    info = INFO

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def estimate_alpha(self, images: Sequence[Image]) -> list[Alpha8]:
        self.threads.add(threading.get_ident())
        return [image[..., 1] for image in images]

    def embed(self, images: Sequence[Image]) -> list[ImageEmbedding]:
        return [Embedding((image.shape[0], image.shape[1])) for image in images]

    def decode(
        self, embeddings: Sequence[ImageEmbedding], prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        assert len(embeddings) == len(prompts)
        return [
            MaskCandidates(np.full((candidates, *embedding.size_hw), index, np.uint8), np.ones(candidates, np.float32))
            for index, embedding in enumerate(embeddings)
        ]

    def inpaint(self, images: Sequence[Image], masks: Sequence[Mask]) -> list[Image]:
        return [np.where(mask[..., None], np.uint8(9), image) for image, mask in zip(images, masks, strict=True)]


async def test_matting_answers_the_engines_alpha_and_name() -> None:
    result = await InProcessMatting(Engine()).alpha(IMAGE)
    np.testing.assert_array_equal(result.alpha, IMAGE[..., 1])
    assert (result.model_version, result.tensorrt) == ("stub", True)


async def test_matting_leaves_the_event_loop_free() -> None:
    engine = Engine()
    await InProcessMatting(engine).alpha(IMAGE)
    assert threading.get_ident() not in engine.threads


async def test_every_prompt_is_decoded_on_the_one_embedding() -> None:
    segmenter = InProcessSegmenter(Engine())
    prompt = Prompt(np.array([[1, 2]], np.float32), np.ones(1, np.uint8))
    found = await segmenter.masks(await segmenter.embed(IMAGE), [prompt, prompt], candidates=3)
    assert [item.probabilities.shape for item in found] == [(3, 5, 7)] * 2
    assert [int(item.probabilities.max()) for item in found] == [0, 1]


async def test_inpainting_fills_the_mask() -> None:
    mask = np.zeros((5, 7), np.bool_)
    mask[1, 2] = True
    filled = await InProcessInpainter(Engine()).inpaint(IMAGE, mask)
    assert (filled[1, 2] == 9).all()
    np.testing.assert_array_equal(filled[~mask], IMAGE[~mask])


async def test_each_model_tells_what_its_engine_is() -> None:
    for model in (InProcessMatting(Engine()), InProcessSegmenter(Engine()), InProcessInpainter(Engine())):
        assert await model.info() == INFO
