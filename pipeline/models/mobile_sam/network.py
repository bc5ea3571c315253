"""MobileSAM: TinyViT's image embeddings, SAM's prompt encoder and mask decoder.

Zhang et al., "Faster Segment Anything: Towards Lightweight SAM for Mobile Applications", 2023 (MobileSAM).
Kirillov et al., "Segment Anything", ICCV 2023 (SAM).
Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers", ECCV 2022.

The keys of the state dict are those of the published ``mobile_sam.pt``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from torch import Tensor, nn

from pipeline.models.mobile_sam.mask_decoder import MaskDecoder
from pipeline.models.mobile_sam.prompt_encoder import EMPTY, PromptEncoder
from pipeline.models.mobile_sam.tiny_vit import TinyVit, TinyVitShape

PX_PER_CELL: Final = 16
"""Side of the image's piece behind each pixel of its embedding."""


@dataclass(frozen=True)
class MobileSamShape:
    """Sizes of the network; the defaults are the published ones, smaller ones are for tests.

    Attributes:
        frame_px: Side of the square input, a multiple of 16.
        width: Channels of embeddings and tokens.
        encoder: Sizes of the image encoder.
    """

    frame_px: int = 1024
    width: int = 256
    encoder: TinyVitShape = field(default_factory=TinyVitShape)


class DecodedMasks(NamedTuple):
    """Four masks for each of P prompts.

    Attributes:
        logits: (P, 4, h, w), a quarter of the frame's side; positive is the object. The first mask is for prompts
            that leave no doubt (several points, a box), the other three are the readings of a single point.
        iou: (P, 4), each mask's predicted IoU; not bounded.
    """

    logits: Tensor
    iou: Tensor


class MobileSam(nn.Module):
    """The whole network; ``encode`` once per image, ``decode`` as often as there are prompts."""

    def __init__(self, shape: MobileSamShape | None = None) -> None:
        super().__init__()
        self.shape = shape = shape or MobileSamShape()
        self.image_encoder = TinyVit(shape.encoder, shape.width)
        self.prompt_encoder = PromptEncoder(shape.width, shape.frame_px, shape.frame_px // PX_PER_CELL)
        self.mask_decoder = MaskDecoder(shape.width)

    def forward(self, images: Tensor, points: Tensor, labels: Tensor) -> DecodedMasks:
        """Masks for one prompt on each image."""
        return self.decode(self.encode(images), points, labels)

    def encode(self, images: Tensor) -> Tensor:
        """Embeddings (B, C, frame_px / 16, frame_px / 16) of normalised images (B, 3, frame_px, frame_px)."""
        embeddings: Tensor = self.image_encoder(images)
        return embeddings

    def decode(
        self,
        embeddings: Tensor,
        points: Tensor,
        labels: Tensor,
        *,
        image_index: Tensor | None = None,
        mask_logits: Tensor | None = None,
        has_mask: Tensor | None = None,
    ) -> DecodedMasks:
        """Masks for P prompts of up to T points each.

        Args:
            embeddings: (I, C, h, w) as from ``encode``; without ``image_index``, I is P, or 1 for all prompts.
            points: float, (P, T, 2), (x, y) in pixels of the frame; a box is its two corners.
            labels: int64, (P, T), as in ``prompt_encoder.py``; slots labelled ``EMPTY`` change nothing.
            image_index: int64, (P,), the image of each prompt; images may repeat.
            mask_logits: float, (P, 1, 4h, 4w), earlier answers to be refined, or None.
            has_mask: bool, (P,), which of ``mask_logits`` count; None is all.
        """
        if image_index is not None:
            embeddings = embeddings[image_index]
        sparse, dense = self.prompt_encoder(points, labels, mask_logits, has_mask)
        logits, iou = self.mask_decoder(embeddings, self.prompt_encoder.map_code(), sparse, dense, labels != EMPTY)
        return DecodedMasks(logits, iou)
