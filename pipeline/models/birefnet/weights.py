"""A network with weights: loaded strictly, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.errors import ModelNotLoaded
from pipeline.models.birefnet.image_tiles import (
    TILED_CONVOLUTIONS,
    TileOrder,
    detect_tile_order,
    with_colours_first,
)
from pipeline.models.birefnet.network import BiRefNet
from pipeline.models.birefnet.shape import BiRefNetShape

logger = logging.getLogger(__name__)


def load_birefnet(
    shape: BiRefNetShape, state: Mapping[str, Tensor], *, tile_order: TileOrder = "colours_first"
) -> BiRefNet:
    """The network with these weights, in float32 and ``eval`` mode. It may share memory with ``state``.

    Args:
        shape: The variant.
        state: The official names without prefixes, exactly those of the variant; half precision is widened.
        tile_order: The order of the image tiles the weights were trained with. ``colours_first`` is right for every
            safetensors file published; a warning is logged where the weights themselves say otherwise.

    Raises:
        ModelNotLoaded: A tensor is missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        network = BiRefNet(shape)
    _require_same_tensors(network.state_dict(), state)
    loaded = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    seen = detect_tile_order(loaded)
    if seen not in (None, tile_order):
        logger.warning("BiRefNet: these weights look made for image tiles in the order %s, not %s.", seen, tile_order)
    if tile_order == "colours_last":
        loaded |= {name: with_colours_first(loaded[name]).contiguous() for name in TILED_CONVOLUTIONS}
    network.load_state_dict(loaded, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _require_same_tensors(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    misshapen = [name for name in expected if name in given and given[name].shape != expected[name].shape]
    problems = [
        f"{len(names)} {what} ({names[0]}, …)"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"), (misshapen, "of another shape"))
        if names
    ]
    if problems:
        raise ModelNotLoaded(f"These are not the weights of this BiRefNet variant: tensors {', '.join(problems)}.")
