"""The tap: points on a photo in, one mask per object out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline import masks, resize
from pipeline.errors import EmbeddingLost
from pipeline.protocols import Segmenter
from pipeline.types import Image, Mask, MaskCandidates, MaskQuality, Prompt

MAX_EMBEDDINGS = 3
"""How often a photo is embedded before its loss is an error: every time the node that held it went away."""


@dataclass(frozen=True)
class FoundObject:
    """What one prompt selected.

    Attributes:
        mask: bool, (H, W), at the photo's size; empty if nothing was found.
        quality: Of the model's own answer.
    """

    mask: Mask
    quality: MaskQuality


async def segment_objects(image: Image, prompts: Sequence[Prompt], *, segmenter: Segmenter) -> list[FoundObject]:
    """The best answer to each prompt, at the size of ``image``.

    The image is embedded once, at most at the model's size, and all prompts are decoded together.

    Raises:
        EmbeddingLost: The embedding went away time after time.
        InferenceError: The model could not answer.
    """
    info = await segmenter.info()
    model_image = await asyncio.to_thread(resize.fit_within, image, min(info.input_size_hw))
    scale_y = model_image.shape[0] / image.shape[0]
    scale_x = model_image.shape[1] / image.shape[1]
    scaled = [prompt.scaled(scale_x, scale_y) for prompt in prompts]
    found = await _embed_and_decode(model_image, scaled, segmenter)
    return await asyncio.to_thread(_lift_best, found, image)


async def _embed_and_decode(image: Image, prompts: Sequence[Prompt], segmenter: Segmenter) -> list[MaskCandidates]:
    embeddings = 0
    while True:
        embedding = await segmenter.embed(image)
        embeddings += 1
        try:
            return await segmenter.masks(embedding, prompts)
        except EmbeddingLost:  # the node that held it is gone; another one can embed again
            if embeddings == MAX_EMBEDDINGS:
                raise


def _lift_best(found: Sequence[MaskCandidates], image: Image) -> list[FoundObject]:
    best = [candidates.probabilities[0] for candidates in found]
    return [FoundObject(masks.lift_mask(p, image.shape[:2]), masks.measure_quality(p)) for p in best]
