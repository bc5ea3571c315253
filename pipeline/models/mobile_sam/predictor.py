"""MobileSAM as a segmentation engine: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import InferenceError
from pipeline.models.mobile_sam.frame import fit_in_frame, lift_logits, place_prompt
from pipeline.models.mobile_sam.network import MobileSam
from pipeline.models.mobile_sam.prompt_encoder import EMPTY
from pipeline.protocols import ImageEmbedding
from pipeline.types import EngineInfo, Image, MaskCandidates, Prompt

MEAN: Final = (123.675, 116.28, 103.53)
STD: Final = (58.395, 57.12, 57.375)
"""Of ImageNet's pixels, RGB in [0, 255]; the network was trained with them."""


@dataclass(frozen=True)
class MobileSamEmbedding:
    """What the network keeps of one image.

    Attributes:
        size_hw: Of the image, in pixels.
        framed_hw: Of the image inside the network's frame, in pixels.
        features: float32, (C, h, w).
    """

    size_hw: tuple[int, int]
    framed_hw: tuple[int, int]
    features: NDArray[np.float32]


class MobileSamPredictor:
    """Objects around points and in boxes. Holds no state but the network: embeddings are the caller's.

    Args:
        network: With its weights loaded; it is switched to inference and moved to ``device``.
        device: ``cpu`` or ``cuda``.
        model_version: Name of these weights.
        max_images: Images that go through the encoder together.
        max_prompts: Prompts that go through the decoder together.
        encode: What makes embeddings of normalised images instead of ``network.encode``, on tensors of ``device``; the
            network then needs no image encoder.
        runtime: What runs the encoder; ``info`` tells it.
    """

    def __init__(
        self,
        network: MobileSam,
        *,
        device: str = "cpu",
        model_version: str = "MobileSAM",
        max_images: int = 4,
        max_prompts: int = 8,
        encode: Callable[[Tensor], Tensor] | None = None,
        runtime: str = "torch",
    ) -> None:
        self._device = torch.device(device)
        self._network = network.to(self._device).eval().requires_grad_(False)
        self._encode = encode or self._network.encode
        self._frame_px = network.shape.frame_px
        self._info = EngineInfo(model_version, self._device.type, (self._frame_px, self._frame_px), runtime=runtime)
        self._max_images, self._max_prompts = max_images, max_prompts
        self._mean, self._std = (torch.tensor(v, device=self._device).view(1, 3, 1, 1) for v in (MEAN, STD))

    @property
    def info(self) -> EngineInfo:
        return self._info

    def embed(self, images: Sequence[Image]) -> list[ImageEmbedding]:
        """One ``MobileSamEmbedding`` per image. Raises ``InferenceError`` if one is not a number somewhere."""
        embeddings: list[ImageEmbedding] = []
        for start in range(0, len(images), self._max_images):
            embeddings += self._embed(images[start : start + self._max_images])
        return embeddings

    def decode(
        self, embeddings: Sequence[ImageEmbedding], prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        """Candidates for each prompt, best first: up to three for a single point, one where more was said.

        Raises:
            InvalidPoint: A prompt has neither a positive point nor a box.
            InferenceError: A mask is not a number somewhere.
        """
        pairs = [(_own(embedding), prompt) for embedding, prompt in zip(embeddings, prompts, strict=True)]
        found: list[MaskCandidates] = []
        for start in range(0, len(pairs), self._max_prompts):
            found += self._decode(pairs[start : start + self._max_prompts], candidates)
        return found

    @torch.inference_mode()
    def _embed(self, images: Sequence[Image]) -> list[MobileSamEmbedding]:
        framed = [fit_in_frame(image, self._frame_px) for image in images]
        features = self._encode(self.normalise(framed)).cpu().numpy()
        if not np.isfinite(features).all():
            raise InferenceError("The segmentation model made nothing of this picture.")
        return [
            MobileSamEmbedding(_size_hw(image), _size_hw(small), np.ascontiguousarray(one))
            for image, small, one in zip(images, framed, features, strict=True)
        ]

    def normalise(self, framed: Sequence[Image]) -> Tensor:
        """The network's input, float32, (B, 3, frame_px, frame_px), from images that fit in the frame."""
        batch = np.zeros((len(framed), self._frame_px, self._frame_px, 3), np.uint8)
        for i, image in enumerate(framed):
            batch[i, : image.shape[0], : image.shape[1]] = image
        pixels = torch.from_numpy(batch).to(self._device).permute(0, 3, 1, 2)
        normalised = (pixels.float() - self._mean) / self._std
        for i, image in enumerate(framed):  # what is padded is 0 after the normalisation, not before
            normalised[i, :, image.shape[0] :] = 0
            normalised[i, :, :, image.shape[1] :] = 0
        return normalised

    @torch.inference_mode()
    def _decode(self, pairs: Sequence[tuple[MobileSamEmbedding, Prompt]], candidates: int) -> list[MaskCandidates]:
        distinct = {id(embedding): embedding for embedding, _ in pairs}
        place = {key: i for i, key in enumerate(distinct)}
        features = torch.from_numpy(np.stack([embedding.features for embedding in distinct.values()]))
        index = None if len(distinct) == 1 else self._tensor(np.array([place[id(e)] for e, _ in pairs]))
        points, labels = _batch([place_prompt(prompt, e.size_hw, e.framed_hw) for e, prompt in pairs])
        decoded = self._network.decode(
            features.to(self._device), self._tensor(points), self._tensor(labels), image_index=index
        )
        iou = decoded.iou.float().cpu().numpy()
        if not (np.isfinite(iou).all() and decoded.logits.isfinite().all()):
            raise InferenceError("The segmentation model gave no mask for this prompt.")
        found = []
        for i, (embedding, prompt) in enumerate(pairs):
            masks = best_masks(prompt, iou[i])[: max(1, candidates)]
            lifted = lift_logits(
                decoded.logits[i, masks].float(), self._frame_px, embedding.framed_hw, embedding.size_hw
            )
            probabilities = (lifted.sigmoid() * 255).round().to(torch.uint8).cpu().numpy()
            found.append(MaskCandidates(probabilities, iou[i, masks].clip(0, 1)))
        return found

    def _tensor(self, array: NDArray[np.float32] | NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def best_masks(prompt: Prompt, iou: NDArray[np.float32]) -> list[int]:
    """Which of the four masks answer ``prompt``, best first.

    A single point may mean the whole, a part or a part of that: the three masks for it. Anything more means one
    thing, and the mask trained for that is better than the three.
    """
    if prompt.box_xyxy is None and len(prompt.points) == 1:
        return sorted((1, 2, 3), key=lambda mask: -float(iou[mask]))
    return [0]


def _batch(
    placed: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Points (P, T, 2) and labels (P, T); T is that of the longest prompt, the others end in empty slots."""
    longest = max(len(labels) for _, labels in placed)
    points = np.zeros((len(placed), longest, 2), np.float32)
    labels = np.full((len(placed), longest), EMPTY, np.int64)
    for i, (own_points, own_labels) in enumerate(placed):
        points[i, : len(own_points)] = own_points
        labels[i, : len(own_labels)] = own_labels
    return points, labels


def _own(embedding: ImageEmbedding) -> MobileSamEmbedding:
    if not isinstance(embedding, MobileSamEmbedding):
        raise TypeError(f"This engine made no {type(embedding).__name__}")
    return embedding


def _size_hw(image: Image) -> tuple[int, int]:
    return image.shape[0], image.shape[1]
