"""Engines to measure: the straightforward one, and those that the ladder offers, by name and precision.

Importing this leaves torch out: memory is measured in processes that hold only what the engine needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from pipeline.errors import ModelNotLoaded
from pipeline.models.ladder import EngineChoice, EngineOptions, Loaded, load_inpainting, load_matting, load_segmentation
from pipeline.models.weights import find_weights
from pipeline.models.zoo import VARIANTS, Network

Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]

_SHORT: Final[dict[str, Precision]] = {"f32": "float32", "bf16": "bfloat16"}
_ON_THE_LADDER: Final[dict[Network, Callable[[EngineOptions], Loaded[Any]]]] = {
    "birefnet": load_matting,
    "mobile_sam": load_segmentation,
    "lama": load_inpainting,
}
_HAS_PRECISION: Final = "precision" in {field.name for field in dataclasses.fields(EngineOptions)}


@dataclass(frozen=True)
class Candidate:
    """One way to run a network.

    Attributes:
        engine: ``eager`` is the straightforward form; the others are the ladder's choices.
        precision: What is asked for; ``auto`` leaves it to the engine, and has to keep the limits of float32.
    """

    engine: str
    precision: Precision = "auto"

    def __str__(self) -> str:
        return self.engine if self.precision == "auto" else f"{self.engine} {self.precision}"

    @property
    def is_half(self) -> bool:
        return self.precision == "bfloat16"

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """``openvino``, ``openvino:bfloat16`` or ``openvino:bf16``. Raises ``ValueError`` on anything else."""
        engine, _, precision = text.partition(":")
        precision = _SHORT.get(precision, precision or "auto")
        if engine not in get_args(EngineChoice) or precision not in get_args(Precision):
            raise ValueError(f"'{text}' is no engine, or no precision of one")
        return cls(engine, cast(Precision, precision))


BASELINE: Final = Candidate("eager")


def load(variant: str, candidate: Candidate, options: EngineOptions) -> Any:
    """The variant's engine, not warmed up.

    Args:
        variant: Row of the zoo.
        candidate: Which engine and precision; they go before those of ``options``.
        options: Threads and the folder of weights.

    Raises:
        ModelNotLoaded: It does not run here; the text says why.
    """
    row = VARIANTS[variant]
    if candidate.engine == "eager" or (candidate.engine == "torch" and candidate.is_half):
        from scripts.network_benchmarks import torch_candidates  # imports torch: only where it runs

        weights = find_weights(options.models_dir, row, allow_unpinned=options.allow_unpinned)
        make = torch_candidates.straightforward if candidate == BASELINE else torch_candidates.in_bfloat16
        return make(weights, threads=options.threads)
    changes: dict[str, Any] = {"engine": candidate.engine}
    if row.network == "birefnet":
        changes["variant"] = variant
    if _HAS_PRECISION:
        changes["precision"] = candidate.precision
    elif candidate.is_half:
        raise ModelNotLoaded(f"This release has no way to ask {candidate.engine} for {candidate.precision}.")
    return _ON_THE_LADDER[row.network](dataclasses.replace(options, **changes)).engine
