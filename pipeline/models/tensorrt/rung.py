"""The ladder's rung: verified weights to an engine on TensorRT, or the reason why there is none.

Not run with a GPU where this was written (see the package); its refusals were.
"""

from __future__ import annotations

from pipeline.models.export.specs import GraphSpec, graphs_of
from pipeline.models.tensorrt.cache import engines_folder, find_engine, key_of
from pipeline.models.tensorrt.platform import this_platform
from pipeline.models.tensorrt.runner import Scratch, TensorRtRunner
from pipeline.models.weights import VerifiedWeights
from pipeline.protocols import InpaintingEngine, MattingEngine, SegmentationEngine


def matting(weights: VerifiedWeights) -> MattingEngine:
    """BiRefNet. Raises ``ModelNotLoaded``, as all functions here, with the reason."""
    from pipeline.models.tensorrt.engines import CompiledMatting  # imports torch, after the platform was asked for

    (spec,), (runner,) = _runners(weights)
    return CompiledMatting(runner, spec, model_version=weights.model_version)


def segmentation(weights: VerifiedWeights) -> SegmentationEngine:
    """MobileSAM."""
    from pipeline.models.tensorrt.engines import CompiledSegmentation  # as above

    (embedding, masks), (encoder, decoder) = _runners(weights)
    return CompiledSegmentation(encoder, decoder, (embedding, masks), model_version=weights.model_version)


def inpainting(weights: VerifiedWeights) -> InpaintingEngine:
    """LaMa."""
    from pipeline.models.tensorrt.engines import CompiledInpainting  # as above

    specs, runners = _runners(weights)
    sides = [spec.inputs[0].shape[0] for spec in specs]
    return CompiledInpainting(
        dict(zip(sides, runners, strict=True)),
        dict(zip(sides, specs, strict=True)),
        model_version=weights.model_version,
    )


def _runners(weights: VerifiedWeights) -> tuple[tuple[GraphSpec, ...], list[TensorRtRunner]]:
    """The variant's graphs, each with its engine; all are looked for before one is loaded."""
    platform = this_platform()
    folder, specs = engines_folder(weights), graphs_of(weights.variant)
    paths = [find_engine(folder, key_of(weights, spec, platform)) for spec in specs]
    scratch = Scratch()
    return specs, [TensorRtRunner(path.read_bytes(), spec, scratch) for path, spec in zip(paths, specs, strict=True)]
