"""The embedded network keeps shapes, sizes and the taps' places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.models.embedded.network import EmbeddedNetwork, NetworkShape
from pipeline.models.embedded.taps import draw_taps

TINY = NetworkShape(
    widths=(8, 8, 16, 32),
    residual_blocks=(1, 1, 1),
    attention_blocks=1,
    decoder_widths=(8, 8, 16),
    head_width=16,
)


def tiny_network() -> EmbeddedNetwork:
    torch.manual_seed(0)
    return EmbeddedNetwork(TINY).eval()


@pytest.mark.parametrize("size_hw", [(64, 96), (160, 128)])
def test_logits_have_the_input_s_size_and_two_coarser_ones(size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    pixels = torch.zeros((2, 5, height, width), dtype=torch.uint8)
    with torch.inference_mode():
        full, quarter, eighth = tiny_network()(pixels)
    assert full.shape == (2, 1, height, width)
    assert quarter.shape == (2, 1, height // 4, width // 4)
    assert eighth.shape == (2, 1, height // 8, width // 8)


def test_uint8_and_float_pixels_mean_the_same() -> None:
    pixels = torch.randint(0, 256, (1, 5, 64, 64), dtype=torch.uint8)
    network = tiny_network()
    with torch.inference_mode():
        torch.testing.assert_close(network(pixels)[0], network(pixels.float())[0])


def test_a_photo_s_answer_does_not_depend_on_its_batch() -> None:
    pixels = torch.randint(0, 256, (3, 5, 64, 64), dtype=torch.uint8)
    network = tiny_network()
    with torch.inference_mode():
        together, alone = network(pixels)[0][1:2], network(pixels[1:2])[0]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_every_weight_learns() -> None:
    network = tiny_network().train()
    outputs = network(torch.randint(0, 256, (2, 5, 64, 64), dtype=torch.uint8))
    sum((output - 1).square().mean() for output in outputs).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    idle = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert idle == []


def test_the_shipped_shape_fits_into_eight_megabytes_of_float16() -> None:
    network = EmbeddedNetwork()
    assert 2 * sum(value.numel() for value in network.state_dict().values()) < 8_000_000


def test_a_tap_is_highest_at_its_point_and_fades() -> None:
    drawn = draw_taps([(30.0, 12.0)], (50, 100))
    assert drawn.shape == (50, 100)
    assert drawn.dtype == np.uint8
    assert np.unravel_index(int(drawn.argmax()), drawn.shape) == (12, 30)
    assert drawn.max() == 255
    assert 0 < drawn[12, 32] < 255
    assert drawn[40, 90] == 0


def test_overlapping_taps_do_not_add_up() -> None:
    both = draw_taps([(30.0, 12.0), (31.0, 12.0)], (50, 100))
    assert (both == np.maximum(draw_taps([(30.0, 12.0)], (50, 100)), draw_taps([(31.0, 12.0)], (50, 100)))).all()


def test_no_tap_is_an_empty_map() -> None:
    assert not draw_taps([], (5, 7)).any()
