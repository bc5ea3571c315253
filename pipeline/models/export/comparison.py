"""How far two runs of a graph are apart, and how far they may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Difference:
    """How far one output is off.

    Attributes:
        largest: Largest absolute difference; infinite where one is no number or the shapes differ.
        mean: Mean absolute difference.
        rms: Root of the mean square.
        scale: Root of the mean square of what was expected.
    """

    largest: float
    mean: float
    rms: float
    scale: float


FLOAT32_TOLERANCES: Final[Mapping[str, float]] = {
    "alphas": 1.0,  # levels: a value may be rounded to either side
    "mean_logits": 1e-3,
    "logits": 3e-3,  # synthetic weights amplify rounding: their logits reach 15
    "features": 1e-4,
    "iou": 1e-4,
    "pictures": 1.0,
    "means": 1e-4,  # of up to three million values, which runtimes add up in another order
    "picture": 2e-5,
}
"""Largest difference of a float32 graph from PyTorch's float32 on the same CPU."""

MASK_LOGITS_TOLERANCE: Final = 1e-3


def float32_tolerance(graph: str, output: str) -> float:
    """Of the graph named so; both networks that end in logits call them that."""
    if graph.startswith("masks") and output == "logits":
        return MASK_LOGITS_TOLERANCE
    return FLOAT32_TOLERANCES[output]


def difference(ours: NDArray[Any], expected: NDArray[Any]) -> Difference:
    """Of one output; bytes count in levels."""
    wide = expected.astype(np.float64)
    scale = float(np.sqrt(np.mean(wide**2)))
    if ours.shape != expected.shape:
        return Difference(np.inf, np.inf, np.inf, scale)
    off = np.abs(ours.astype(np.float64) - wide)
    off[~np.isfinite(off)] = np.inf
    return Difference(float(off.max()), float(off.mean()), float(np.sqrt(np.mean(off**2))), scale)


def differences(ours: Arrays, expected: Arrays) -> dict[str, Difference]:
    """Of each output that was expected."""
    return {name: difference(ours[name], expected[name]) for name in expected}
