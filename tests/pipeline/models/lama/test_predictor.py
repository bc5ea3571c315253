"""The predictor fills holes of any windows with what its network says, and touches nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import InferenceError, ShapeMismatch
from pipeline.models.lama.network import LamaGenerator
from pipeline.models.lama.predictor import LamaPredictor
from pipeline.protocols import InpaintingEngine
from pipeline.types import Image, Mask


class OneColour(nn.Module):
    """Answers with one value everywhere, and remembers what it was shown."""

    def __init__(self, value: float = 0.5) -> None:
        super().__init__()
        self.value = value
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return torch.full_like(x[:, :3], self.value)


def small_network() -> LamaGenerator:
    torch.manual_seed(5)
    return LamaGenerator(width=4, blocks=2)


def predictor(network: nn.Module | None = None, **options: object) -> LamaPredictor:
    return LamaPredictor(network or small_network(), model_version="LaMa-small", **options)  # type: ignore[arg-type]


def noise(height: int, width: int, seed: int = 1) -> Image:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image.setflags(write=False)  # as arrays are that come through a handle
    return image


def hole(height: int, width: int) -> Mask:
    mask = np.zeros((height, width), np.bool_)
    mask[height // 3 : height // 2 + 1, width // 4 : width // 2 + 1] = True
    mask.setflags(write=False)
    return mask


def test_it_tells_what_runs() -> None:
    engine: InpaintingEngine = predictor(largest_side_px=512)
    assert engine.info.model_version == "LaMa-small"
    assert engine.info.device == "cpu"
    assert engine.info.input_size_hw == (512, 512)
    assert engine.info.degraded_reason is None


@pytest.mark.parametrize("size_hw", [(40, 56), (37, 61), (16, 16), (15, 17), (5, 7), (1, 1), (1, 30)])
def test_windows_of_any_size_are_filled_inside_the_hole_only(size_hw: tuple[int, int]) -> None:
    image, mask = noise(*size_hw), hole(*size_hw)
    (filled,) = predictor().inpaint([image], [mask])
    assert filled.shape == image.shape
    assert filled.dtype == np.uint8
    assert np.array_equal(filled[~mask], image[~mask])
    assert not np.shares_memory(filled, image)


def test_the_hole_holds_the_networks_picture_truncated() -> None:
    network, image, mask = small_network().eval(), noise(24, 40), hole(24, 40)
    x = np.dstack([image / np.float32(255) * ~mask[..., None], mask]).astype(np.float32)
    with torch.inference_mode():
        picture = network(torch.from_numpy(x).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    (filled,) = predictor(network).inpaint([image], [mask])
    assert np.ptp(picture) > 0.01  # or a swapped axis would not show
    assert np.array_equal(filled[mask], np.floor(picture * 255)[mask])


def test_the_network_sees_no_pixel_of_the_hole() -> None:
    mask = hole(24, 40)
    spoilt = noise(24, 40).copy()
    spoilt[mask] = (255, 0, 255)
    first, second = predictor().inpaint([noise(24, 40), spoilt], [mask, mask])
    assert np.array_equal(first[mask], second[mask])


def test_windows_are_mirrored_to_multiples_of_eight_with_their_edge_repeated() -> None:
    network, image, mask = OneColour(), noise(23, 38), hole(23, 38)
    predictor(network).inpaint([image], [mask])
    (x,) = network.seen
    assert x.shape == (1, 4, 24, 40)
    assert torch.equal(x[:, :, 23], x[:, :, 22])
    assert torch.equal(x[..., 38], x[..., 37])
    assert torch.equal(x[..., 39], x[..., 36])


def test_windows_of_one_size_share_a_pass_and_answers_keep_their_order() -> None:
    network = OneColour()
    sizes = [(32, 24), (24, 32), (31, 20), (24, 32), (32, 24)]
    images = [noise(*size, seed=index) for index, size in enumerate(sizes)]
    filled = predictor(network).inpaint(images, [hole(*size) for size in sizes])
    assert [tuple(x.shape) for x in network.seen] == [(3, 4, 32, 24), (2, 4, 24, 32)]
    for image, result in zip(images, filled, strict=True):
        mask = hole(*image.shape[:2])
        assert np.array_equal(result[~mask], image[~mask])
        assert (result[mask] == 127).all()


def test_a_pass_has_a_bounded_number_of_pixels_but_at_least_one_window() -> None:
    network = OneColour()
    windows = [noise(32, 24)] * 5, [hole(32, 24)] * 5
    predictor(network, pixels_per_pass=2 * 32 * 24 + 1).inpaint(*windows)
    assert [len(x) for x in network.seen] == [2, 2, 1]
    network.seen.clear()
    predictor(network, pixels_per_pass=1).inpaint(*windows)
    assert [len(x) for x in network.seen] == [1] * 5


def test_a_window_comes_out_of_a_batch_as_it_does_alone() -> None:
    engine = predictor()
    images, masks = [noise(32, 48, seed) for seed in range(3)], [hole(32, 48)] * 3
    alone = [engine.inpaint([image], [mask])[0] for image, mask in zip(images, masks, strict=True)]
    for together, single in zip(engine.inpaint(images, masks), alone, strict=True):
        assert np.abs(together.astype(int) - single).max() <= 1


def test_a_window_without_a_hole_comes_back_as_a_copy_and_needs_no_network() -> None:
    network, image = OneColour(), noise(20, 30)
    (filled,) = predictor(network).inpaint([image], [np.zeros((20, 30), np.bool_)])
    assert np.array_equal(filled, image)
    assert filled.flags.writeable
    assert network.seen == []


def test_a_window_that_is_all_hole_is_filled() -> None:
    (filled,) = predictor(OneColour(1.0)).inpaint([noise(20, 30)], [np.ones((20, 30), np.bool_)])
    assert (filled == 255).all()


def test_no_windows_give_no_pictures() -> None:
    assert predictor().inpaint([], []) == []


def test_the_network_is_evaluated_not_trained() -> None:
    network = small_network().train()
    engine = predictor(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    engine.inpaint([noise(24, 32)], [hole(24, 32)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_half_precision_changes_a_fill_little() -> None:
    network, image, mask = small_network(), noise(32, 40), hole(32, 40)
    (exact,) = predictor(network).inpaint([image], [mask])
    (half,) = predictor(network, precision=torch.bfloat16).inpaint([image], [mask])
    assert np.abs(half.astype(int) - exact).max() <= 8


def test_an_image_and_a_mask_of_different_sizes_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="differ in size"):
        predictor().inpaint([noise(20, 30)], [hole(30, 20)])


def test_what_is_no_number_never_becomes_a_picture() -> None:
    with pytest.raises(InferenceError):
        predictor(OneColour(float("nan"))).inpaint([noise(20, 30)], [hole(20, 30)])
