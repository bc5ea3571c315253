"""The networks on OpenVINO: verified weights in, an engine on this CPU out."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.errors import ModelNotLoaded
from pipeline.models import torch_engines
from pipeline.models.birefnet.predictor import BiRefNetPredictor
from pipeline.models.guarded_engines import GuardedMatting, GuardedSegmentation
from pipeline.models.memory import memory_of
from pipeline.models.mobile_sam.predictor import MobileSamPredictor
from pipeline.models.openvino.build import build_apart
from pipeline.models.openvino.cache import CompiledModels, Entry, first_writable, folders
from pipeline.models.openvino.facts import facts_of
from pipeline.models.openvino.runtime import CompiledNetwork, Precision, has_bfloat16, load
from pipeline.models.weights import VerifiedWeights
from pipeline.protocols import MattingEngine, SegmentationEngine

logger = logging.getLogger(__name__)


def matting(weights: VerifiedWeights, *, models_dir: Path, threads: int, precision: Precision) -> MattingEngine:
    """BiRefNet. Raises ``ModelNotLoaded`` if it cannot be compiled or is not what PyTorch makes of the weights."""
    network = compiled_network(weights, models_dir=models_dir, threads=threads, precision=precision)
    assert weights.variant.input_size_hw is not None
    predictor = BiRefNetPredictor(
        network,
        model_version=weights.model_version,
        input_size_hw=weights.variant.input_size_hw,
        runtime="openvino",
        max_images=1,
    )
    return GuardedMatting(predictor, memory_of("cpu"))


def segmentation(
    weights: VerifiedWeights, *, models_dir: Path, threads: int, precision: Precision
) -> SegmentationEngine:
    """MobileSAM: the image encoder on OpenVINO, prompts and masks on PyTorch. Raises as ``matting``."""
    encode = compiled_network(weights, models_dir=models_dir, threads=threads, precision=precision)
    network = torch_engines.mobile_sam(weights)
    del network.image_encoder
    predictor = MobileSamPredictor(network, encode=encode, model_version=weights.model_version, runtime="openvino")
    return GuardedSegmentation(predictor, memory_of("cpu"))


def compiled_network(
    weights: VerifiedWeights, *, models_dir: Path, threads: int, precision: Precision
) -> CompiledNetwork:
    """The network of these weights, compiled now or by an earlier start.

    Raises:
        ModelNotLoaded: It cannot be compiled, or its verification failed.
    """
    if precision == "bfloat16" and not has_bfloat16():
        raise ModelNotLoaded("This CPU does not compute in bfloat16. Set precision to 'auto' or 'float32'.")
    facts, name = facts_of(weights, precision), weights.model_version
    places = folders(models_dir)
    entry = next(filter(None, (CompiledModels(folder).find(name, facts) for folder in places)), None)
    if entry is None:
        with first_writable(places) as folder:
            entry = _built(weights, precision, threads, folder, facts)
    told = entry.verification
    if not told.passed:
        raise ModelNotLoaded(
            f"{name} on OpenVINO is not what it is on PyTorch: their outputs differ by {told.error:.1e} of their size, "
            f"and {told.tolerance:.0e} is allowed."
        )
    try:
        return load(entry.data, threads=threads, precision=precision)
    except RuntimeError as error:
        raise ModelNotLoaded(f"OpenVINO cannot load its compiled {name}.") from error


def _built(weights: VerifiedWeights, precision: Precision, threads: int, folder: Path, facts: dict[str, str]) -> Entry:
    models, name = CompiledModels(folder), weights.model_version
    with models.only_builder():
        entry = models.find(name, facts)  # another process may have been quicker
        if entry is None:
            logger.info("Compiling %s for OpenVINO; the next start takes it from %s.", name, folder)
            build_apart(weights, precision, threads, folder)
            entry = models.find(name, facts)
    if entry is None:
        raise ModelNotLoaded(f"Compiling {name} for OpenVINO left nothing that can be used.")
    return entry
