"""Engines for deployments on compiled graphs: a runner for each graph, and what stands around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import InferenceError, ShapeMismatch, TooManyPoints
from pipeline.models.birefnet.predictor import require_size
from pipeline.models.export.specs import GraphSpec
from pipeline.models.mobile_sam.frame import fit_in_frame, lift_logits, place_prompt
from pipeline.models.mobile_sam.predictor import MobileSamEmbedding, best_masks
from pipeline.models.mobile_sam.prompt_encoder import EMPTY
from pipeline.models.tensorrt.runner import Runner
from pipeline.protocols import ImageEmbedding
from pipeline.types import Alpha8, EngineInfo, Image, Mask, MaskCandidates, Prompt

Item = TypeVar("Item")


def split(items: Sequence[Item], batches: Sequence[int]) -> Iterator[Sequence[Item]]:
    """``items`` in runs of sizes from ``batches``, the largest first: nothing is computed that nobody asked for."""
    start = 0
    while start < len(items):
        size = max(batch for batch in batches if batch <= len(items) - start)
        yield items[start : start + size]
        start += size


class CompiledMatting:
    """BiRefNet on a compiled graph; a ``MattingEngine``.

    Args:
        runner: Of the graph.
        spec: The graph.
        model_version: What ``info`` names.
    """

    def __init__(self, runner: Runner, spec: GraphSpec, *, model_version: str) -> None:
        self._runner, self._spec = runner, spec
        height, width, _ = spec.inputs[0].shape
        self._info = EngineInfo(model_version, "cuda", (height, width), tensorrt=True, runtime="tensorrt")

    @property
    def info(self) -> EngineInfo:
        return self._info

    def estimate_alpha(self, images: Sequence[Image]) -> list[Alpha8]:
        """One alpha per image, uint8, (H, W), 255 is all foreground.

        Raises:
            ShapeMismatch: An image has another size than ``info.input_size_hw``.
            InferenceError: The network's answer is not a number somewhere.
        """
        require_size(images, self._info.input_size_hw)
        alphas: list[Alpha8] = []
        for part in split(images, self._spec.batches):
            found = self._runner.run({"images": np.stack(part)})
            _require_numbers(found["mean_logits"])
            alphas += list(found["alphas"])
        return alphas


class CompiledSegmentation:
    """MobileSAM on two compiled graphs; a ``SegmentationEngine``.

    Args:
        encoder: Runner of the graph that embeds.
        decoder: Runner of the graph that makes masks.
        specs: The two graphs.
        model_version: What ``info`` names.
        device: Where masks are brought to their images' size.
    """

    def __init__(
        self,
        encoder: Runner,
        decoder: Runner,
        specs: tuple[GraphSpec, GraphSpec],
        *,
        model_version: str,
        device: str = "cuda",
    ) -> None:
        self._encoder, self._decoder = encoder, decoder
        self._embedding, self._masks = specs
        self._device = device
        self._frame_px = self._embedding.inputs[0].shape[0]
        self._info = EngineInfo(
            model_version, "cuda", (self._frame_px, self._frame_px), tensorrt=True, runtime="tensorrt"
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    def embed(self, images: Sequence[Image]) -> list[ImageEmbedding]:
        """One ``MobileSamEmbedding`` per image. Raises ``InferenceError`` if one is not a number somewhere."""
        embeddings: list[ImageEmbedding] = []
        for part in split(images, self._embedding.batches):
            framed = [fit_in_frame(image, self._frame_px) for image in part]
            canvas = np.zeros((len(part), *self._embedding.inputs[0].shape), np.uint8)
            for i, small in enumerate(framed):
                canvas[i, : small.shape[0], : small.shape[1]] = small
            sizes = np.array([small.shape[:2] for small in framed], np.int32)
            features = self._encoder.run({"images": canvas, "framed_hw": sizes})["features"]
            _require_numbers(features)
            embeddings += [
                MobileSamEmbedding((image.shape[0], image.shape[1]), (small.shape[0], small.shape[1]), one)
                for image, small, one in zip(part, framed, features, strict=True)
            ]
        return embeddings

    def decode(
        self, embeddings: Sequence[ImageEmbedding], prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        """Candidates for each prompt, best first: up to three for a single point, one where more was said.

        Raises:
            InvalidPoint: A prompt has neither a positive point nor a box.
            TooManyPoints: A prompt has more points than the graph has slots.
            InferenceError: A mask is not a number somewhere.
        """
        pairs = list(zip(embeddings, prompts, strict=True))
        found: list[MaskCandidates] = []
        for part in split(pairs, self._masks.batches):
            found += self._decode([(_own(embedding), prompt) for embedding, prompt in part], candidates)
        return found

    def _decode(self, pairs: Sequence[tuple[MobileSamEmbedding, Prompt]], candidates: int) -> list[MaskCandidates]:
        slots = self._masks.inputs[2].shape[0]
        points = np.zeros((len(pairs), slots, 2), np.float32)
        labels = np.full((len(pairs), slots), EMPTY, np.int32)
        for i, (embedding, prompt) in enumerate(pairs):
            own_points, own_labels = place_prompt(prompt, embedding.size_hw, embedding.framed_hw)
            if len(own_labels) > slots:
                raise TooManyPoints(f"A prompt has {len(own_labels)} points; {slots} is the limit.", limit=slots)
            points[i, : len(own_labels)], labels[i, : len(own_labels)] = own_points, own_labels
        features = np.stack([embedding.features for embedding, _ in pairs])
        decoded = self._decoder.run({"features": features, "points": points, "labels": labels})
        _require_numbers(decoded["logits"])
        return [
            self._answer(embedding, prompt, decoded["logits"][i], decoded["iou"][i], candidates)
            for i, (embedding, prompt) in enumerate(pairs)
        ]

    @torch.inference_mode()
    def _answer(
        self,
        embedding: MobileSamEmbedding,
        prompt: Prompt,
        logits: NDArray[np.float32],
        iou: NDArray[np.float32],
        candidates: int,
    ) -> MaskCandidates:
        chosen = best_masks(prompt, iou)[: max(1, candidates)]
        low = torch.from_numpy(logits[chosen]).to(self._device)
        lifted = lift_logits(low, self._frame_px, embedding.framed_hw, embedding.size_hw)
        probabilities = (lifted.sigmoid() * 255).round().to(torch.uint8).cpu().numpy()
        return MaskCandidates(probabilities, iou[chosen].clip(0, 1))


class CompiledInpainting:
    """LaMa on a compiled graph for each size of window; an ``InpaintingEngine``.

    Args:
        runners: By the side of the window, in pixels.
        specs: Likewise.
        model_version: What ``info`` names.
    """

    def __init__(self, runners: Mapping[int, Runner], specs: Mapping[int, GraphSpec], *, model_version: str) -> None:
        self._runners, self._specs = runners, specs
        largest = max(specs)
        self._info = EngineInfo(model_version, "cuda", (largest, largest), tensorrt=True, runtime="tensorrt")

    @property
    def info(self) -> EngineInfo:
        return self._info

    def inpaint(self, images: Sequence[Image], masks: Sequence[Mask]) -> list[Image]:
        """Each image with its mask's True pixels replaced; the others are the image's own.

        Images of other sizes than the windows' are mirrored at the bottom and right up to the next one.

        Raises:
            ShapeMismatch: An image and its mask differ in size, or an image is larger than all windows.
            InferenceError: The network's answer is not a number somewhere.
        """
        by_side: dict[int, list[int]] = {}
        for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
            if image.shape[:2] != mask.shape:
                raise ShapeMismatch(f"Image {image.shape[:2]} and mask {mask.shape} differ in size.")
            if mask.any():
                by_side.setdefault(self._side_of(mask.shape), []).append(index)
        results = [image.copy() for image in images]
        for side, indices in by_side.items():
            for part in split(indices, self._specs[side].batches):
                found = self._runners[side].run(
                    {
                        "images": np.stack([_mirrored(images[i], side) for i in part]),
                        "masks": np.stack([_mirrored(masks[i], side) for i in part]).astype(np.uint8),
                    }
                )
                _require_numbers(found["means"])
                for i, picture in zip(part, found["pictures"], strict=True):
                    hole = masks[i]
                    results[i][hole] = picture[: hole.shape[0], : hole.shape[1]][hole]
        return results

    def _side_of(self, size_hw: tuple[int, ...]) -> int:
        fitting = [side for side in self._specs if side >= max(size_hw)]
        if not fitting:
            raise ShapeMismatch(f"A window of {size_hw} is larger than {max(self._specs)} pixels.")
        return min(fitting)


def _mirrored(pixels: NDArray[Any], side: int) -> NDArray[Any]:
    """A square of ``side``, mirrored at the bottom and right, the edge repeated."""
    beyond = [(0, side - pixels.shape[0]), (0, side - pixels.shape[1]), *([(0, 0)] * (pixels.ndim - 2))]
    return np.pad(pixels, beyond, "symmetric")


def _own(embedding: ImageEmbedding) -> MobileSamEmbedding:
    if not isinstance(embedding, MobileSamEmbedding):
        raise TypeError(f"This engine made no {type(embedding).__name__}")
    return embedding


def _require_numbers(values: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise InferenceError("The model's answer is not a number somewhere.")
