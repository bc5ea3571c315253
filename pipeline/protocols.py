"""The two narrow doors of the library.

*Engines* are synchronous and batched: a deployment's executor thread calls them. One protocol per task; OpenCV,
PyTorch, OpenVINO and TensorRT stand behind the same one.

*Models* are asynchronous and take one item: operations call them. Behind them stand replicas
(``deployments/handles.py``), engines in the same process (``pipeline/in_process.py``), or stubs in tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.types import Alpha8, EmbeddingRef, EngineInfo, Image, Mask, MaskCandidates, MattingResult, Prompt


class ImageEmbedding(Protocol):
    """What a segmentation engine keeps of one image. Only the engine that made it looks inside."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the embedded image, in pixels."""
        ...


class MattingEngine(Protocol):
    """Finds the foreground of whole images."""

    @property
    def info(self) -> EngineInfo: ...

    def estimate_alpha(self, images: Sequence[Image]) -> list[Alpha8]:
        """One alpha per image, of the same height and width. Every image has ``info.input_size_hw``."""
        ...


class SegmentationEngine(Protocol):
    """Finds the objects that prompts point at; an image is embedded once and prompted many times."""

    @property
    def info(self) -> EngineInfo: ...

    def embed(self, images: Sequence[Image]) -> list[ImageEmbedding]:
        """One embedding per image; images may differ in size, none is larger than ``info.input_size_hw``."""
        ...

    def decode(
        self, embeddings: Sequence[ImageEmbedding], prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        """Candidates for ``prompts[i]`` on ``embeddings[i]``; at least one, at most ``candidates``, best first."""
        ...


class InpaintingEngine(Protocol):
    """Fills holes with what could have been behind them."""

    @property
    def info(self) -> EngineInfo: ...

    def inpaint(self, images: Sequence[Image], masks: Sequence[Mask]) -> list[Image]:
        """Each image with its mask's True pixels replaced; what it returns outside the mask is not used."""
        ...


class Matting(Protocol):
    """The matting model, wherever it runs."""

    async def info(self) -> EngineInfo: ...

    async def alpha(self, image: Image) -> MattingResult:
        """Alpha of an image that has the model's input size."""
        ...


class Segmenter(Protocol):
    """The segmentation model, wherever it runs."""

    async def info(self) -> EngineInfo: ...

    async def embed(self, image: Image) -> EmbeddingRef:
        """A reference to the embedding of ``image``; pass it to ``masks`` as often as needed.

        Raises:
            EmbeddingLost: Not here, but from ``masks``, when the embedding's owner died meanwhile: embed again.
        """
        ...

    async def masks(
        self, embedding: EmbeddingRef, prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        """Candidates for each prompt on the embedded image."""
        ...


class Inpainter(Protocol):
    """The inpainting model, wherever it runs."""

    async def info(self) -> EngineInfo: ...

    async def inpaint(self, image: Image, mask: Mask) -> Image:
        """``image`` with the True pixels of ``mask`` filled."""
        ...
