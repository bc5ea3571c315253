"""An engine's first work, on a made-up picture: it pays for what comes only once, and shows whether it works at all.

All functions raise ``InferenceError`` where the answer cannot come from a working network, and what the engine raises.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InferenceError
from pipeline.protocols import InpaintingEngine, MattingEngine, SegmentationEngine
from pipeline.types import Image, Mask, Prompt

_SIDE_PX = 256


def warm_up_matting(engine: MattingEngine) -> None:
    (alpha,) = engine.estimate_alpha([_picture(engine.info.input_size_hw)])
    _require_sight(alpha)


def warm_up_segmentation(engine: SegmentationEngine) -> None:
    (embedding,) = engine.embed([_picture((_SIDE_PX, _SIDE_PX))])
    middle = Prompt(np.full((1, 2), _SIDE_PX / 2, np.float32), np.ones(1, np.uint8))
    (found,) = engine.decode([embedding], [middle])
    _require_sight(found.probabilities[0])


def warm_up_inpainting(engine: InpaintingEngine) -> None:
    hole = _object((_SIDE_PX, _SIDE_PX))
    (filled,) = engine.inpaint([_picture(hole.shape)], [hole])
    _require_sight(filled[hole])


def _require_sight(answer: NDArray[np.uint8]) -> None:
    """Everything and nothing (255 and 0) are answers to a picture; one value between them everywhere is none."""
    if (answer == answer.flat[0]).all() and 0 < answer.flat[0] < 255:
        raise InferenceError("Its answer is the same everywhere, whatever the picture.")


def _picture(size_hw: tuple[int, ...]) -> Image:
    """A dark square on a bright slope with some noise."""
    height, width = size_hw
    slope = np.linspace(120, 200, width)[None, :, None] + np.linspace(0, 20, height)[:, None, None]
    noise = np.random.default_rng(0).integers(0, 16, (height, width, 3))
    image = (slope + noise).astype(np.uint8)
    image[_object(size_hw)] //= 5
    return image


def _object(size_hw: tuple[int, ...]) -> Mask:
    """A square in the middle, a quarter of the shorter side wide."""
    height, width = size_hw
    half = min(height, width) // 8
    mask = np.zeros((height, width), np.bool_)
    mask[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half] = True
    return mask
