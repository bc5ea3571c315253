"""The engines' protocols behind the memory guard; who calls them notices nothing, unless memory ends.

``on_cpu`` makes the same engine on the CPU. It is called for a request that the GPU had no room for, and what it made
is given up afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pipeline.models.memory import Memory
from pipeline.models.memory_guard import MemoryGuard
from pipeline.protocols import ImageEmbedding, InpaintingEngine, MattingEngine, SegmentationEngine
from pipeline.types import Alpha8, EngineInfo, Image, Mask, MaskCandidates, Prompt

MATTING_MB: Final = 1200.0
"""What a matting image of 1024 × 1024 is taken to need until it was measured."""


class GuardedMatting:
    """A ``MattingEngine`` behind the guard."""

    def __init__(
        self, engine: MattingEngine, memory: Memory, on_cpu: Callable[[], MattingEngine] | None = None
    ) -> None:
        self._engine, self._on_cpu = engine, on_cpu
        self._guard: MemoryGuard[Image, Alpha8] = MemoryGuard(memory, mb_per_unit=MATTING_MB / 1024**2)

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def estimate_alpha(self, images: Sequence[Image]) -> list[Alpha8]:
        """One alpha per image. Raises what the guard raises, as all methods here."""
        on_cpu = self._on_cpu
        return self._guard.run(
            images,
            [image.shape[0] * image.shape[1] for image in images],
            self._engine.estimate_alpha,
            None if on_cpu is None else lambda some: on_cpu().estimate_alpha(some),
        )


class GuardedSegmentation:
    """A ``SegmentationEngine`` behind the guard; embeddings are the same on GPU and CPU."""

    def __init__(
        self, engine: SegmentationEngine, memory: Memory, on_cpu: Callable[[], SegmentationEngine] | None = None
    ) -> None:
        self._engine, self._on_cpu = engine, on_cpu
        self._embedding: MemoryGuard[Image, ImageEmbedding] = MemoryGuard(memory)
        self._decoding: MemoryGuard[tuple[ImageEmbedding, Prompt], MaskCandidates] = MemoryGuard(memory)

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def embed(self, images: Sequence[Image]) -> list[ImageEmbedding]:
        """One embedding per image."""
        on_cpu = self._on_cpu
        return self._embedding.run(
            images, [1] * len(images), self._engine.embed, None if on_cpu is None else lambda some: on_cpu().embed(some)
        )

    def decode(
        self, embeddings: Sequence[ImageEmbedding], prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        """Candidates for each prompt."""
        on_cpu = self._on_cpu

        def decode(engine: SegmentationEngine, pairs: Sequence[tuple[ImageEmbedding, Prompt]]) -> list[MaskCandidates]:
            return engine.decode([e for e, _ in pairs], [prompt for _, prompt in pairs], candidates=candidates)

        pairs = list(zip(embeddings, prompts, strict=True))
        return self._decoding.run(
            pairs,
            [1] * len(pairs),
            lambda some: decode(self._engine, some),
            None if on_cpu is None else lambda some: decode(on_cpu(), some),
        )


class GuardedInpainting:
    """An ``InpaintingEngine`` behind the guard."""

    def __init__(
        self, engine: InpaintingEngine, memory: Memory, on_cpu: Callable[[], InpaintingEngine] | None = None
    ) -> None:
        self._engine, self._on_cpu = engine, on_cpu
        self._guard: MemoryGuard[tuple[Image, Mask], Image] = MemoryGuard(memory)

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def inpaint(self, images: Sequence[Image], masks: Sequence[Mask]) -> list[Image]:
        """Each image with its hole filled."""
        on_cpu = self._on_cpu

        def inpaint(engine: InpaintingEngine, windows: Sequence[tuple[Image, Mask]]) -> list[Image]:
            return engine.inpaint([image for image, _ in windows], [mask for _, mask in windows])

        windows = list(zip(images, masks, strict=True))
        return self._guard.run(
            windows,
            [mask.size for mask in masks],
            lambda some: inpaint(self._engine, some),
            None if on_cpu is None else lambda some: inpaint(on_cpu(), some),
        )
