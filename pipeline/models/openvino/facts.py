"""What a compiled model depends on: it is used only where all of it is the same."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from pathlib import Path

from pipeline.models.openvino.runtime import Precision
from pipeline.models.weights import VerifiedWeights

_SOURCES = {"birefnet": ("birefnet",), "mobile_sam": ("mobile_sam",), "lama": ("lama",)}
_FLAGS = ("avx", "sse4", "amx", "fma", "f16c", "vnni", "asimd", "sve")
"""Beginnings or parts of the names of those CPU features that compilers choose instructions by."""


def facts_of(weights: VerifiedWeights, precision: Precision) -> dict[str, str]:
    """All that the compiled network of these weights holds for."""
    return {
        "weights": weights.sha256,
        "variant": weights.variant.name,
        "input_size_hw": str(weights.variant.input_size_hw),
        "precision": precision,
        "openvino": importlib.metadata.version("openvino"),
        "torch": importlib.metadata.version("torch"),
        "clearcut": _sources("openvino", *_SOURCES[weights.variant.network]),
        "cpu": cpu(),
    }


def cpu() -> str:
    """The CPU's name and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = (told.get("flags") or told.get("Features") or "").split()
    useful = sorted(flag for flag in flags if any(part in flag for part in _FLAGS))
    return " ".join([told.get("model name", platform.machine()), *useful])


def _sources(*folders: str) -> str:
    """The hash of the code that says what the network computes, and how it is compiled."""
    models = Path(__file__).resolve().parent.parent
    files = [path for folder in folders for path in sorted((models / folder).glob("*.py"))]
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
