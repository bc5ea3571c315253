"""Whether the numbers of a weight file can be weights at all. A right hash only says that nobody changed them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def find_fault(tensors: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the values, as the end of a sentence about their file; None if nothing is."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not _holds_numbers(name, tensor):
            return f"holds values that are not numbers (in {name})"
    kernels = [tensor for tensor in tensors.values() if tensor.is_floating_point() and tensor.dim() > 1]
    if kernels and not any(tensor.any() for tensor in kernels):
        return "holds only zeros"
    return None


def _holds_numbers(name: str, tensor: Tensor) -> bool:
    # A variance too large for half precision is infinite, and silences its channel: published files may hold some.
    wrong = tensor.isnan() if name.endswith("running_var") else ~tensor.isfinite()
    return not bool(wrong.any())
