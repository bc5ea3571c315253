"""The words of the library: arrays, prompts and what engines answer with.

Every array is named once, here. Images are RGB and upright everywhere; BGR never leaves a codec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
"""RGB, uint8, (H, W, 3), upright."""

Cutout: TypeAlias = NDArray[np.uint8]
"""Foreground colours and alpha, RGBA, uint8, (H, W, 4), not premultiplied."""

Alpha: TypeAlias = NDArray[np.float32]
"""Share of foreground, float32, (H, W), in [0, 1]."""

Alpha8: TypeAlias = NDArray[np.uint8]
"""Alpha as it crosses between processes: uint8, (H, W), 255 is all foreground."""

Mask: TypeAlias = NDArray[np.bool_]
"""bool, (H, W). For inpainting, True is what gets filled."""

BoxXYXY: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""

EmbeddingRef: TypeAlias = object
"""An image's embedding as the caller holds it: opaque, either the embedding itself or a reference to it."""


@dataclass(frozen=True)
class Prompt:
    """What the user pointed at on one object.

    Attributes:
        points: float32, (N, 2), (x, y) in pixels of the image the prompt belongs to.
        labels: uint8, (N,); 1 is on the object, 0 is not on it. At least one label is 1 unless a box is given.
        box_xyxy: A box around the object, in the same pixels, or None.
    """

    points: NDArray[np.float32]
    labels: NDArray[np.uint8]
    box_xyxy: tuple[float, float, float, float] | None = None

    def scaled(self, scale_x: float, scale_y: float) -> Prompt:
        """The same prompt on the image resized by the two factors."""
        factors = np.array([scale_x, scale_y], np.float32)
        box = self.box_xyxy
        if box is not None:
            box = (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)
        return Prompt(points=self.points * factors, labels=self.labels, box_xyxy=box)


@dataclass(frozen=True)
class MaskCandidates:
    """An engine's answers to one prompt, best first.

    Attributes:
        probabilities: uint8, (K, H, W), 255 is surely the object; (H, W) is the size of the embedded image.
        scores: float32, (K,), in [0, 1], the engine's own estimate of each candidate's IoU, falling.
    """

    probabilities: NDArray[np.uint8]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class MaskQuality:
    """How much a mask covers, and how sure its model was.

    Attributes:
        coverage: Share of the picture that is foreground, in [0, 1].
        confidence: Mean certainty inside the mask, in [0, 1]: 0 is a coin's throw. 0 for an empty mask.
    """

    coverage: float
    confidence: float


@dataclass(frozen=True)
class EngineInfo:
    """What runs behind a model's name, told by the engine itself.

    Attributes:
        model_version: Name of the model that really runs; it becomes ``X-Model-Version``.
        device: ``cuda`` or ``cpu``.
        input_size_hw: For matting, the exact size images must have (they are stretched to it). For segmentation and
            inpainting, the largest size taken; smaller images keep their size.
        tensorrt: Whether TensorRT runs it.
        degraded_reason: Why this is not the best the product has and how to get better; None if it is.
        runtime: What runs it: ``torch``, ``openvino``, ``tensorrt`` or ``opencv``. Of a network in parts, what runs
            the largest.
    """

    model_version: str
    device: str
    input_size_hw: tuple[int, int]
    tensorrt: bool = False
    degraded_reason: str | None = None
    runtime: str = "torch"


@dataclass(frozen=True)
class MattingResult:
    """One image's alpha, and what it took.

    Attributes:
        alpha: uint8, (H, W), 255 is all foreground; the size of the image given.
        model_version: Name of the model that really made it.
        infer_s: Time the engine worked on the batch this image was in, in seconds; the rest was waiting.
        tensorrt: Whether TensorRT ran it.
    """

    alpha: Alpha8
    model_version: str
    infer_s: float
    tensorrt: bool = False
