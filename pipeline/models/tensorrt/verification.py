"""Whether an engine gives PyTorch's pictures. Its runs on a GPU were not made where this was written (see the package).

Engines are compared with PyTorch in float32 on the same inputs. What half precision costs depends on the weights, and
synthetic ones amplify it; so BiRefNet's engine may be off by what decisions allow, or by twice what PyTorch in half is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.models.export.comparison import Arrays, difference

Measure = Callable[[NDArray[Any], NDArray[Any]], float]


def mean_of_bytes(ours: NDArray[Any], expected: NDArray[Any]) -> float:
    """Mean absolute difference, as a share of 255."""
    return difference(ours, expected).mean / 255


def rms_of_bytes(ours: NDArray[Any], expected: NDArray[Any]) -> float:
    """Root mean square difference, as a share of 255; 45 dB are 0.0056."""
    return difference(ours, expected).rms / 255


def relative_rms(ours: NDArray[Any], expected: NDArray[Any]) -> float:
    """Root mean square difference, as a share of what was expected."""
    found = difference(ours, expected)
    return found.rms / max(found.scale, 1e-12)


@dataclass(frozen=True)
class Check:
    """How one output is judged.

    Attributes:
        name: What the record calls it.
        output: The output's name.
        measure: How far two of them are apart.
        tolerance: The largest allowed.
    """

    name: str
    output: str
    measure: Measure
    tolerance: float


CHECKS: Final[Mapping[str, tuple[Check, ...]]] = {
    "matting": (Check("alpha's mean error", "alphas", mean_of_bytes, 0.002),),
    "embedding": (Check("features' relative error", "features", relative_rms, 0.01),),
    "masks": (
        Check("mask logits' relative error", "logits", relative_rms, 0.01),
        Check("IoU's relative error", "iou", relative_rms, 0.01),
    ),
    "inpainting": (Check("picture's error", "pictures", rms_of_bytes, 0.0056),),
}
"""By the kind of graph."""

_SLACK: Final = 2.0


@dataclass(frozen=True)
class Verdict:
    """What a comparison found, by the names of its checks.

    Attributes:
        errors: The largest over all batches.
        tolerances: What was allowed.
    """

    errors: dict[str, float]
    tolerances: dict[str, float]

    @property
    def passed(self) -> bool:
        # Nothing compared is nothing verified; NaN is not within anything.
        return bool(self.errors) and all(error <= self.tolerances[name] for name, error in self.errors.items())


def judge(
    kind: str, ours: Sequence[Arrays], expected: Sequence[Arrays], in_half: Sequence[Arrays] | None = None
) -> Verdict:
    """The verdict over several batches.

    Args:
        kind: Of the graph.
        ours: The engine's outputs, one mapping for each batch.
        expected: PyTorch's in float32.
        in_half: PyTorch's in the engine's precision, where its own error widens the tolerance.
    """
    errors, tolerances = {}, {}
    for check in CHECKS[kind]:
        errors[check.name] = _worst(check, ours, expected)
        tolerances[check.name] = check.tolerance
        if in_half is not None:
            own = _worst(check, in_half, expected)
            tolerances[check.name] = max(check.tolerance, _SLACK * own if np.isfinite(own) else 0.0)
    return Verdict(errors, tolerances)


def _worst(check: Check, ours: Sequence[Arrays], expected: Sequence[Arrays]) -> float:
    pairs = zip(ours, expected, strict=True)
    found = [check.measure(mine[check.output], theirs[check.output]) for mine, theirs in pairs]
    return float(np.max(found)) if found else float("inf")  # NaN stays NaN
