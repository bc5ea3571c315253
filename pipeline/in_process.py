"""Engines of this process behind the models' protocols: for scripts, notebooks and tests that need no cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import cast

from pipeline.protocols import ImageEmbedding, InpaintingEngine, MattingEngine, SegmentationEngine
from pipeline.types import EmbeddingRef, EngineInfo, Image, Mask, MaskCandidates, MattingResult, Prompt


class InProcessMatting:
    """A matting engine as a ``Matting`` model; each call runs in a thread."""

    def __init__(self, engine: MattingEngine) -> None:
        self._engine = engine

    async def info(self) -> EngineInfo:
        return self._engine.info

    async def alpha(self, image: Image) -> MattingResult:
        start = time.perf_counter()
        (alpha,) = await asyncio.to_thread(self._engine.estimate_alpha, [image])
        info = self._engine.info
        return MattingResult(alpha, info.model_version, time.perf_counter() - start, info.tensorrt)


class InProcessSegmenter:
    """A segmentation engine as a ``Segmenter`` model; each call runs in a thread."""

    def __init__(self, engine: SegmentationEngine) -> None:
        self._engine = engine

    async def info(self) -> EngineInfo:
        return self._engine.info

    async def embed(self, image: Image) -> EmbeddingRef:
        (embedding,) = await asyncio.to_thread(self._engine.embed, [image])
        return embedding

    async def masks(
        self, embedding: EmbeddingRef, prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        embeddings = [cast(ImageEmbedding, embedding)] * len(prompts)
        return await asyncio.to_thread(self._engine.decode, embeddings, prompts, candidates=candidates)


class InProcessInpainter:
    """An inpainting engine as an ``Inpainter`` model; each call runs in a thread."""

    def __init__(self, engine: InpaintingEngine) -> None:
        self._engine = engine

    async def info(self) -> EngineInfo:
        return self._engine.info

    async def inpaint(self, image: Image, mask: Mask) -> Image:
        (filled,) = await asyncio.to_thread(self._engine.inpaint, [image], [mask])
        return filled
