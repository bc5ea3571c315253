"""The background removal: an encoded photo in, a transparent PNG out."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from pipeline import codecs, compositing, masks, resize
from pipeline.codecs import DecodedImage, ImageLimits
from pipeline.protocols import Matting
from pipeline.stages import StageClock
from pipeline.threads import in_thread
from pipeline.types import Alpha8, Image, MaskQuality


@dataclass(frozen=True)
class RemovedBackground:
    """A cut-out, ready to send.

    Attributes:
        png: RGBA PNG of the photo's own size.
        width: Pixels of the upright photo.
        height: Pixels of the upright photo.
        model_version: Name of the model that really ran.
        tensorrt: Whether TensorRT ran it.
        quality: How much is foreground, and how sure the model was.
    """

    png: bytes
    width: int
    height: int
    model_version: str
    tensorrt: bool
    quality: MaskQuality


async def remove_background(
    data: bytes,
    *,
    matting: Matting,
    limits: ImageLimits,
    declared_type: str | None = None,
    smoothing: bool = True,
    clock: StageClock | None = None,
) -> RemovedBackground:
    """The photo's foreground on transparency, at the photo's own size.

    Args:
        data: An encoded photo, untrusted.
        matting: Where the model runs.
        limits: What is refused before pixels are unpacked.
        declared_type: The media type the sender claims.
        smoothing: Blur the alpha's edges; colours are never blurred.
        clock: Receives the stages decode, resize, wait, infer, refine, compose and encode.

    Raises:
        ImageRejected: The photo is unreadable or over a limit.
        ModelNotLoaded, InferenceError: The model could not answer.
    """
    clock = clock or StageClock()
    info = await matting.info()
    photo, model_image = await in_thread(_decode_and_stretch, data, limits, declared_type, info.input_size_hw, clock)
    start = time.perf_counter()
    result = await matting.alpha(model_image)
    clock.add("wait", max(0.0, time.perf_counter() - start - result.infer_s))
    clock.add("infer", result.infer_s)
    png = await in_thread(_compose_and_encode, photo, result.alpha, smoothing, clock)
    height, width = photo.pixels.shape[:2]
    quality = masks.measure_quality(result.alpha)
    return RemovedBackground(png, width, height, result.model_version, result.tensorrt, quality)


def _decode_and_stretch(
    data: bytes, limits: ImageLimits, declared_type: str | None, size_hw: tuple[int, int], clock: StageClock
) -> tuple[DecodedImage, Image]:
    with clock.stage("decode"):
        photo = codecs.decode_image(data, limits=limits, declared_type=declared_type)
    with clock.stage("resize"):
        return photo, resize.stretch(photo.pixels, size_hw)


def _compose_and_encode(photo: DecodedImage, model_alpha: Alpha8, smoothing: bool, clock: StageClock) -> bytes:
    with clock.stage("refine"):
        alpha = masks.lift_alpha(model_alpha, photo.pixels)
        if smoothing:
            alpha = masks.smooth_alpha(alpha)
        if photo.alpha is not None:  # what was transparent before stays so
            alpha = alpha * (photo.alpha.astype(np.float32) / 255.0)
    with clock.stage("compose"):
        cutout = compositing.compose_cutout(photo.pixels, alpha)
    with clock.stage("encode"):
        return codecs.encode_png(cutout, icc_profile=photo.icc_profile)
