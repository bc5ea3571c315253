"""Files that try a decoder, each with what must become of it: `scripts/hostile_corpus.py` writes them to a folder."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.hostile_files.bmps import bmps
from scripts.hostile_files.jpegs import jpegs
from scripts.hostile_files.pngs import pngs
from scripts.hostile_files.specimen import Specimen
from scripts.hostile_files.strangers import strangers
from scripts.hostile_files.webps import webps

__all__ = ["Specimen", "all_specimens"]


def all_specimens(seed: int = 0) -> Iterator[Specimen]:
    """Every file there is, always in the same order; the same bytes for the same seed and libraries."""
    for kind in (jpegs, pngs, webps, bmps, strangers):
        yield from kind(seed)
