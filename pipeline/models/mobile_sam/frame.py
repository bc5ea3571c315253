"""Between a picture's pixels and the square frame that the network sees: it lies in the top left corner, as large
as fits."""

from __future__ import annotations

import numpy as np
import PIL.Image
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import InvalidPoint
from pipeline.models.mobile_sam.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, FOREGROUND, PADDING
from pipeline.types import Image, Prompt


def fit_in_frame(image: Image, frame_px: int) -> Image:
    """``image`` with its longer side at exactly ``frame_px``: shrunk or, unlike elsewhere, enlarged.

    Pillow's bilinear filter, which the network was trained with; it averages where it shrinks.
    """
    height, width = image.shape[:2]
    scale = frame_px / max(height, width)
    size = max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
    if size == (width, height):
        return image
    return np.asarray(PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BILINEAR))


def place_prompt(
    prompt: Prompt, size_hw: tuple[int, int], framed_hw: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A prompt on a picture of ``size_hw`` as points (T, 2) of the frame and their labels (T,).

    A box becomes its two corners after the points; without one comes the padding point the network was trained with.

    Raises:
        InvalidPoint: There is neither a positive point nor a box.
    """
    points = np.asarray(prompt.points, np.float64).reshape(-1, 2)
    labels = np.asarray(prompt.labels, np.int64).reshape(-1)
    if prompt.box_xyxy is not None:
        points = np.concatenate([points, np.array(prompt.box_xyxy, np.float64).reshape(2, 2)])
        labels = np.append(labels, [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT])
    elif FOREGROUND in labels:
        points = np.concatenate([points, np.zeros((1, 2))])
        labels = np.append(labels, PADDING)
    else:
        raise InvalidPoint("At least one point must be on the object.")
    scale_xy = np.array([framed_hw[1] / size_hw[1], framed_hw[0] / size_hw[0]])
    return (points * scale_xy).astype(np.float32), labels


def lift_logits(logits: Tensor, frame_px: int, framed_hw: tuple[int, int], size_hw: tuple[int, int]) -> Tensor:
    """Mask logits of the frame, (K, h, w), as logits of the picture, (K, H, W)."""
    lifted = F.interpolate(logits[None], (frame_px, frame_px), mode="bilinear", align_corners=False)
    lifted = lifted[:, :, : framed_hw[0], : framed_hw[1]]
    if framed_hw != size_hw:
        lifted = F.interpolate(lifted, size_hw, mode="bilinear", align_corners=False)
    return lifted[0]
