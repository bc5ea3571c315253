"""Which engine runs: the best rung of the ladder that this machine can stand on, and why not a better one.

The ladder is TensorRT → PyTorch on the GPU → OpenVINO → PyTorch on the CPU → embedded. Its neural rungs need weights;
this release ships the embedded rung only, so ``auto`` ends there and any other choice is told that it cannot run.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2

from pipeline.errors import ModelNotLoaded
from pipeline.models.embedded.opencv_inpainting import OpenCvInpainting
from pipeline.protocols import InpaintingEngine, MattingEngine, SegmentationEngine

EngineChoice: TypeAlias = Literal["auto", "tensorrt", "torch", "openvino", "embedded"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """What a deployment asks the ladder for.

    Attributes:
        engine: ``auto`` takes the best that runs; any other name takes that one or nothing.
        has_gpu: Whether the deployment holds a share of a GPU.
        threads: CPU threads for the engine.
    """

    engine: EngineChoice = "auto"
    has_gpu: bool = False
    threads: int = 2


def load_matting(options: EngineOptions) -> MattingEngine:
    """The matting engine. Raises ``ModelNotLoaded`` if the wanted one cannot run."""
    _require_embedded("BiRefNet", options)
    _set_torch_threads(options)
    from pipeline.models.embedded.neural_matting import EmbeddedMatting  # imports torch: only where it runs

    return EmbeddedMatting()


def load_segmentation(options: EngineOptions) -> SegmentationEngine:
    """The segmentation engine. Raises ``ModelNotLoaded`` if the wanted one cannot run."""
    _require_embedded("MobileSAM", options)
    _set_torch_threads(options)
    from pipeline.models.embedded.neural_segmentation import EmbeddedSegmentation  # imports torch: only where it runs

    return EmbeddedSegmentation()


def load_inpainting(options: EngineOptions) -> InpaintingEngine:
    """The inpainting engine. Raises ``ModelNotLoaded`` if the wanted one cannot run."""
    _require_embedded("LaMa", options)
    return OpenCvInpainting()


def _require_embedded(model: str, options: EngineOptions) -> None:
    """Prepares the embedded rung, and logs why every rung above it is passed over."""
    cv2.setNumThreads(options.threads)
    if options.has_gpu:
        logger.warning("%s: %s; running on the CPU.", model, _why_no_cuda())
    if options.engine not in ("auto", "embedded"):
        raise ModelNotLoaded(
            f"{model} has no weights for engine '{options.engine}'. "
            "Set engine to 'auto' or 'embedded' in serve_config.yaml."
        )
    for rung in ("tensorrt", "torch", "openvino"):
        logger.info("%s: engine '%s' passed over: no weights.", model, rung)


def _set_torch_threads(options: EngineOptions) -> None:
    """Ray gives a replica one thread, whatever the machine has."""
    import torch

    torch.set_num_threads(options.threads)


def _why_no_cuda() -> str:
    import torch  # slow to import, and only a replica with a GPU share needs the answer

    if not torch.cuda.is_available():
        return f"Ray offers a GPU, but PyTorch {torch.__version__} sees none"
    return "a GPU is there, but the embedded engine does not use it"
