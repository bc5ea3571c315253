"""A MobileSAM small enough for tests."""

from __future__ import annotations

import pytest

from pipeline.models.mobile_sam.network import MobileSam, MobileSamShape
from pipeline.models.mobile_sam.tiny_vit import TinyVitShape
from tests.golden import synthetic_weights

SHAPE = MobileSamShape(
    frame_px=64,
    width=32,
    encoder=TinyVitShape(
        widths=(8, 8, 16, 16), depths=(1, 2, 1, 1), heads=(1, 1, 2, 2), windows=(3, 3, 4, 3), classes=5
    ),
)


@pytest.fixture
def small_network() -> MobileSam:
    network = MobileSam(SHAPE)
    synthetic_weights.fill(network.state_dict())
    return network.eval()
