"""Which graphs a variant has: their names, their arrays, and the batches an engine is built for. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pipeline.models.zoo import Variant

Precision: TypeAlias = Literal["fp16", "fp16-fft32", "tf32"]
"""``fp16``: half precision, deformable sampling in float32. ``fp16-fft32``: half, the Fourier units in float32.
``tf32``: float32, where a GPU's products may round their factors to 10 bits."""

WINDOW_SIDES_PX: Final = (256, 384, 512, 768, 1024)
"""Sides of inpainting's windows, as in ``operations/remove_object.py``; the matrices of a DFT are for one size."""

PROMPT_SLOTS: Final = 34
"""Points of a prompt: 32 taps and a box's corners. Shorter prompts end in slots that change nothing."""

EXPORT_VERSION: Final = 1
"""Raised when the graphs change: engines that were built from older ones are then built anew."""


@dataclass(frozen=True)
class Port:
    """An array that goes into a graph or comes out of it.

    Attributes:
        dtype: NumPy's name of its type.
        shape: Without the batch, which comes first.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GraphSpec:
    """One graph of a variant.

    Attributes:
        name: What files are named by.
        inputs: In the order of the module's ``forward``.
        outputs: Likewise; those of comparisons only are left out.
        batches: Sizes that engines are tuned for, rising from 1.
        precision: Of an engine; a graph can be exported in float32 as well.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    batches: tuple[int, ...]
    precision: Precision


def graphs_of(variant: Variant) -> tuple[GraphSpec, ...]:
    """All graphs that an engine of ``variant`` needs."""
    if variant.network == "birefnet":
        assert variant.input_size_hw is not None
        return (matting(variant.input_size_hw),)
    if variant.network == "mobile_sam":
        return embedding(), masks()
    return tuple(inpainting(side_px) for side_px in WINDOW_SIDES_PX)


def matting(size_hw: tuple[int, int]) -> GraphSpec:
    height, width = size_hw
    return GraphSpec(
        f"matting-{height}x{width}",
        (Port("images", "uint8", (height, width, 3)),),
        (Port("alphas", "uint8", (height, width)), Port("mean_logits", "float32", ())),
        _batches(size_hw, largest=8),
        "fp16",
    )


def embedding(frame_px: int = 1024, channels: int = 256) -> GraphSpec:
    cells = frame_px // 16
    return GraphSpec(
        f"embedding-{frame_px}",
        (Port("images", "uint8", (frame_px, frame_px, 3)), Port("framed_hw", "int32", (2,))),
        (Port("features", "float32", (channels, cells, cells)),),
        (1, 2, 4, 8),
        "tf32",
    )


def masks(frame_px: int = 1024, channels: int = 256) -> GraphSpec:
    cells = frame_px // 16
    return GraphSpec(
        f"masks-{frame_px}",
        (
            Port("features", "float32", (channels, cells, cells)),
            Port("points", "float32", (PROMPT_SLOTS, 2)),
            Port("labels", "int32", (PROMPT_SLOTS,)),
        ),
        (Port("logits", "float32", (4, 4 * cells, 4 * cells)), Port("iou", "float32", (4,))),
        (1, 2, 4, 8),
        "tf32",
    )


def inpainting(side_px: int) -> GraphSpec:
    return GraphSpec(
        f"inpainting-{side_px}",
        (Port("images", "uint8", (side_px, side_px, 3)), Port("masks", "uint8", (side_px, side_px))),
        (Port("pictures", "uint8", (side_px, side_px, 3)), Port("means", "float32", ())),
        _batches((side_px, side_px), largest=8),
        "fp16-fft32",
    )


def _batches(size_hw: tuple[int, int], *, largest: int) -> tuple[int, ...]:
    """1, 2, 4, …, as many as hold eight pictures of 1024 x 1024."""
    most = min(largest, max(1, 8 * 1024 * 1024 // math.prod(size_hw)))
    return tuple(2**i for i in range(most.bit_length()))
