"""Models behind the pipeline's protocols in tests: small, predictable, told when to wait; and photos for them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from pipeline.types import EmbeddingRef, EngineInfo, Image, Mask, MaskCandidates, MattingResult, Prompt

PATIENCE_S = 20.0
"""Longest wait for an event that must come; a test that fails does so after it, none sleeps it away."""

FILL = (10, 200, 30)
MATTING_SIZE_HW = (48, 64)


def photo(height: int = 90, width: int = 120) -> Image:
    """A lopsided photo without two equal rows or columns."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(7).integers(0, 40, (height, width))
    return np.stack([(x * 2 + noise) % 256, (y * 2 + noise) % 256, 255 - (x + y + noise) % 256], -1).astype(np.uint8)


def encode(pixels: NDArray[np.uint8], format: str = "PNG", **options: Any) -> bytes:
    """The file Pillow makes of ``pixels``; not our own writer, so that tests see what other programs send."""
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def decode(data: bytes) -> NDArray[np.uint8]:
    """The pixels Pillow finds in a file, in its own mode."""
    with PillowImage.open(io.BytesIO(data)) as image:
        return np.array(image)


class EllipseMatting:
    """Finds an ellipse in the middle, with an edge some pixels soft."""

    def __init__(self, *, degraded_reason: str | None = None, tensorrt: bool = False) -> None:
        self._info = EngineInfo("stub-matting", "cpu", MATTING_SIZE_HW, tensorrt, degraded_reason)
        self.seen: list[tuple[int, ...]] = []

    async def info(self) -> EngineInfo:
        return self._info

    async def alpha(self, image: Image) -> MattingResult:
        self.seen.append(image.shape)
        height, width = image.shape[:2]
        y, x = np.mgrid[0:height, 0:width]
        distance = np.hypot((x - width / 2) / (width / 3), (y - height / 2) / (height / 3))
        alpha = (np.clip((1.15 - distance) / 0.3, 0, 1) * 255).astype(np.uint8)
        alpha.flags.writeable = False  # as arrays from a handle are
        return MattingResult(alpha, self._info.model_version, 0.001, self._info.tensorrt)


class HeldMatting(EllipseMatting):
    """Answers only when ``release`` is set; ``entered`` tells that a request is inside."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    async def alpha(self, image: Image) -> MattingResult:
        self.entered.set()
        await self.release.wait()
        return await super().alpha(image)


class FailingMatting(EllipseMatting):
    """Raises ``error`` for every image."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def alpha(self, image: Image) -> MattingResult:
        raise self._error


class DiscSegmenter:
    """Finds a disc around the first positive point of each prompt; nothing for the prompts in ``blind_for``."""

    def __init__(self, *, radius_px: int = 9, blind_for: Sequence[int] = (), largest_px: int = 1024) -> None:
        self.radius_px = radius_px
        self.blind_for = set(blind_for)
        self.prompts: list[list[Prompt]] = []
        self.embedded: list[tuple[int, ...]] = []
        self._largest_px = largest_px

    async def info(self) -> EngineInfo:
        return EngineInfo("stub-segmenter", "cpu", (self._largest_px, self._largest_px))

    async def embed(self, image: Image) -> EmbeddingRef:
        self.embedded.append(image.shape)
        return image.shape[:2]

    async def masks(
        self, embedding: EmbeddingRef, prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        assert isinstance(embedding, tuple)
        self.prompts.append(list(prompts))
        y, x = np.mgrid[0 : embedding[0], 0 : embedding[1]]
        found = []
        for index, prompt in enumerate(prompts):
            px, py = prompt.points[int(np.argmax(prompt.labels == 1))]
            radius = -1 if index in self.blind_for else self.radius_px
            disc = (np.hypot(x - px, y - py) <= radius).astype(np.uint8) * 255
            disc.flags.writeable = False
            found.append(MaskCandidates(disc[None], np.ones(1, np.float32)))
        return found


class HeldSegmenter(DiscSegmenter):
    """Finds masks only when ``release`` is set; counts how many jobs are inside at once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.inside = 0
        self.most_inside = 0

    async def masks(
        self, embedding: EmbeddingRef, prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.entered.set()
        try:
            await self.release.wait()
            return await super().masks(embedding, prompts, candidates=candidates)
        finally:
            self.inside -= 1


class FailingSegmenter(DiscSegmenter):
    """Raises ``error`` for every image."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def masks(
        self, embedding: EmbeddingRef, prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        raise self._error


class ColourInpainter:
    """Fills the whole window with one colour, outside the mask too: what is kept there, the caller must keep."""

    def __init__(self, *, largest_px: int = 1024) -> None:
        self.windows: list[tuple[int, ...]] = []
        self._largest_px = largest_px

    async def info(self) -> EngineInfo:
        return EngineInfo("stub-inpainter", "cpu", (self._largest_px, self._largest_px))

    async def inpaint(self, image: Image, mask: Mask) -> Image:
        assert image.shape[:2] == mask.shape
        assert mask.any()
        self.windows.append(image.shape)
        filled = np.full_like(image, FILL)
        filled.flags.writeable = False
        return filled
