"""Weight files to measure with: those of a models folder, or made-up ones; and made-up ones of lower gains.

Made-up weights let BiRefNet's decoder amplify rounding far more than trained ones do. How well half precision does is
therefore judged with the same values at lower gains; ``lower_gains`` writes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from safetensors.torch import load_file, save_file

from pipeline.errors import ModelNotLoaded
from pipeline.models.files import part_of, publish
from pipeline.models.sidecar import record, sidecar_path
from pipeline.models.weights import VerifiedWeights, find_weights
from pipeline.models.zoo import Variant
from scripts.write_synthetic_weights import write

AMPLIFYING: Final = ("squeeze_module.", "decoder.decoder_block", "decoder.gdt_convs")
"""Parts of BiRefNet whose synthetic weights have a gain above 1, but for the last layer: it only scales the logits."""


def find_or_write(variant: Variant, models_dir: Path) -> VerifiedWeights:
    """The variant's weights in the folder; synthetic ones are written if there are none, but nothing is written over.

    Raises:
        ModelNotLoaded: There is a file, and it cannot be used.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    names = (variant.file_name, variant.unpinned_file_name)
    if not any((models_dir / name).exists() for name in names):
        write(variant, models_dir)
    return find_weights(models_dir, variant, allow_unpinned=True)


def link_into(weights: VerifiedWeights, folder: Path) -> None:
    """The weight file and its sidecar, if it has one, under the same names in another folder."""
    for path in (weights.path, sidecar_path(weights.path)):
        if path.exists():
            (folder / path.name).symlink_to(path.resolve())


def lower_gains(weights: VerifiedWeights, factor: float, models_dir: Path) -> VerifiedWeights:
    """A copy of synthetic BiRefNet weights in another folder, its amplifying convolutions multiplied by ``factor``.

    Raises:
        ModelNotLoaded: The weights are not synthetic: trained ones are judged as they are.
    """
    if weights.origin != "synthetic" or weights.variant.network != "birefnet":
        raise ModelNotLoaded(f"{weights.path.name} is no synthetic BiRefNet; its gains are what they are.")
    models_dir.mkdir(parents=True, exist_ok=True)
    tensors = load_file(weights.path)
    for name, tensor in tensors.items():
        if tensor.ndim > 1 and name.startswith(AMPLIFYING):
            tensor.mul_(factor)
    path = models_dir / weights.variant.unpinned_file_name
    save_file(tensors, part_of(path))
    publish(part_of(path), path)
    record(path, weights.variant.name, "synthetic")
    return find_weights(models_dir, weights.variant, allow_unpinned=True)
