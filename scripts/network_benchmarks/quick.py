"""Small stand-ins, so that a test can run everything in seconds: a tiny BiRefNet, and LaMa on a small window.

There is no small MobileSAM: its sizes belong to the engine.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from pipeline.models.zoo import VARIANTS
from scripts.network_benchmarks.cases import CASES, Case, InpaintingCase, MattingCase

_NAME: Final = "tiny"


def add_tiny_birefnet() -> None:
    """Makes ``tiny`` a row of this process's zoo, with a backbone that no published file has."""
    from pipeline.models import torch_engines  # imports torch
    from pipeline.models.birefnet.shape import TINY

    row = dataclasses.replace(
        VARIANTS["lite"], name=_NAME, model_version="BiRefNet-tiny", backbone=_NAME, input_size_hw=(64, 64)
    )
    VARIANTS[_NAME] = row
    torch_engines.SHAPES[_NAME] = TINY


def quick_case(name: str) -> Case:
    """The small form of a case."""
    case = CASES[name]
    if isinstance(case, MattingCase):
        return MattingCase(_NAME, rounds=2, baseline_s=0.1)
    if isinstance(case, InpaintingCase):
        return InpaintingCase(side_px=64, rounds=2, baseline_s=0.1)
    return case
