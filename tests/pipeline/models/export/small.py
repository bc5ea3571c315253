"""The networks at sizes that are exported in seconds, with the goldens' weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from torch import nn

from pipeline.models.birefnet.network import BiRefNet
from pipeline.models.birefnet.shape import BiRefNetShape
from pipeline.models.export import specs
from pipeline.models.export.specs import GraphSpec
from pipeline.models.lama.network import LamaGenerator
from pipeline.models.mobile_sam.network import MobileSam, MobileSamShape
from pipeline.models.mobile_sam.tiny_vit import TinyVitShape
from tests.golden.goldens import give_synthetic_weights

Network = TypeVar("Network", bound=nn.Module)

SAM_SHAPE: Final = MobileSamShape(
    frame_px=64,
    width=32,
    encoder=TinyVitShape(widths=(8, 16, 16, 32), depths=(1, 1, 1, 1), heads=(1, 2, 2, 2), windows=(7, 7, 14, 7)),
)
BIREFNET_SHAPE: Final = BiRefNetShape(
    embed_dim=8, depths=(2, 1, 1, 1), heads=(1, 1, 2, 2), window=3, inner_channels=8, branch_channels=16
)

MATTING: Final = specs.matting((64, 96))
EMBEDDING: Final = specs.embedding(SAM_SHAPE.frame_px, SAM_SHAPE.width)
MASKS: Final = specs.masks(SAM_SHAPE.frame_px, SAM_SHAPE.width)
INPAINTING: Final = specs.inpainting(64)


def birefnet() -> BiRefNet:
    return _with_weights(BiRefNet(BIREFNET_SHAPE))


def mobile_sam() -> MobileSam:
    return _with_weights(MobileSam(SAM_SHAPE))


def lama() -> LamaGenerator:
    return _with_weights(LamaGenerator(width=4, blocks=2))


NETWORKS: Final[dict[GraphSpec, Callable[[], nn.Module]]] = {
    MATTING: birefnet,
    EMBEDDING: mobile_sam,
    MASKS: mobile_sam,
    INPAINTING: lama,
}


def _with_weights(network: Network) -> Network:
    give_synthetic_weights(network)
    return network.requires_grad_(False)
