"""Weights are loaded strictly, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.errors import ModelNotLoaded
from pipeline.models.birefnet.image_tiles import TILED_CONVOLUTIONS, with_colours_first
from pipeline.models.birefnet.network import BiRefNet
from pipeline.models.birefnet.shape import TINY
from pipeline.models.birefnet.weights import load_birefnet

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    torch.manual_seed(1)
    return BiRefNet(TINY).state_dict()


def without_one(state: State) -> None:
    del state["bb.norm2.bias"]


def with_another(state: State) -> None:
    state["refiner.weight"] = torch.zeros(1)


def with_another_shape(state: State) -> None:
    state["bb.norm2.bias"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_one, r"1 missing \(bb\.norm2\.bias"),
        (with_another, r"1 unexpected \(refiner\.weight"),
        (with_another_shape, r"1 of another shape \(bb\.norm2\.bias"),
    ],
)
def test_other_tensors_are_refused(state: State, change: Callable[[State], None], said: str) -> None:
    change(state)
    with pytest.raises(ModelNotLoaded, match=said):
        load_birefnet(TINY, state)


def test_half_precision_is_widened(state: State) -> None:
    halves = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    network = load_birefnet(TINY, halves)
    assert not network.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())
    assert torch.equal(network.get_parameter("bb.norm2.bias"), halves["bb.norm2.bias"].float())


def test_the_older_order_of_tiles_is_permuted_away(state: State) -> None:
    network = load_birefnet(TINY, state, tile_order="colours_last")
    for name in TILED_CONVOLUTIONS:
        assert torch.equal(network.get_parameter(name), with_colours_first(state[name]))


def test_weights_that_look_made_for_the_other_order_are_warned_of(
    state: State, caplog: pytest.LogCaptureFixture
) -> None:
    for name in TILED_CONVOLUTIONS:
        state[name] = state[name][:, : state[name].shape[1] // 3].repeat(1, 3, 1, 1)  # the same for each colour
    with caplog.at_level(logging.WARNING):
        load_birefnet(TINY, state)
        assert not caplog.records
        load_birefnet(TINY, state, tile_order="colours_last")
    assert "colours_first, not colours_last" in caplog.text
