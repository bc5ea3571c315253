"""The files to start from, and decoders that nothing else uses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline import codecs
from pipeline.codecs import DecoderLimits, DecoderPool
from scripts.hostile_files import Specimen, all_specimens


@pytest.fixture(scope="session")
def corpus() -> list[Specimen]:
    return list(all_specimens())


@pytest.fixture(scope="session")
def decoders() -> Iterator[DecoderPool]:
    """What ``decode_image`` works with during these tests."""
    pool = DecoderPool(2, limits=DecoderLimits(wall_s=120), wait_s=120)
    codecs.use_decoders(pool)
    pool.warm_up()
    yield pool
    codecs.use_decoders(DecoderPool())
