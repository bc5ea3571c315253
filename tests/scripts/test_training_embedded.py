"""Training samples are what they say, the same each time, and the optimiser does its sum."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipeline.models.embedded.network import EmbeddedNetwork
from scripts.average_embedded import mean_of, network_with
from scripts.training_embedded import augmentation, samples
from scripts.training_embedded.checkpoint import load_checkpoint, save_checkpoint
from scripts.training_embedded.loss import training_loss
from scripts.training_embedded.muon import Muon, orthogonalise
from scripts.training_embedded.pairs import Rgba, load_pairs
from scripts.training_embedded.samples import make_batch
from scripts.training_embedded.tap_points import correction, deepest_point


@pytest.fixture(scope="module")
def pairs() -> Rgba:
    """Six pictures of a disc or two, 96 pixels a side."""
    generator = np.random.default_rng(3)
    array = generator.integers(0, 256, (6, 96, 96, 4), dtype=np.uint8)
    array[..., 3] = 0
    for index, pair in enumerate(array):
        mask = np.zeros((96, 96), np.uint8)
        cv2.circle(mask, (30 + 4 * index, 40), 18, 255, -1)
        if index % 2:
            cv2.circle(mask, (75, 75), 12, 255, -1)
        pair[..., 3] = mask
    return array


def test_a_step_s_batch_is_the_same_each_time(pairs: Rgba) -> None:
    first, again = (make_batch(pairs, step=7, batch_size=5, size=64, seed=1) for _ in range(2))
    other = make_batch(pairs, step=8, batch_size=5, size=64, seed=1)
    assert (first.pixels == again.pixels).all()
    assert (first.masks == again.masks).all()
    assert (first.pixels != other.pixels).any()


def test_positive_taps_lie_on_the_mask_and_negative_ones_off_it(pairs: Rgba) -> None:
    batches = [make_batch(pairs, step=step, batch_size=6, size=64, seed=0) for step in range(10)]
    tapped = 0
    for batch in batches:
        for pixels, mask, is_tapped in zip(batch.pixels, batch.masks, batch.corrections == 0, strict=True):
            assert pixels[3].any() == is_tapped
            assert (mask[pixels[3] == 255] > 127).all()
            assert (mask[pixels[4] == 255] < 128).all()
            tapped += is_tapped
    assert 10 < tapped < 50


def test_a_worn_thing_lies_on_its_host_and_takes_the_taps_there(pairs: Rgba) -> None:
    rng = np.random.default_rng(0)
    canvas = np.full((128, 128, 3), 90, np.uint8)
    host = np.zeros((128, 128), np.bool_)
    host[20:110, 30:120] = True
    laid = [augmentation.lay_on(canvas, host, augmentation.badge(pairs[0], rng), rng) for _ in range(20)]
    found = [one for one in laid if one is not None]
    assert len(found) > 15
    for rgb, shown in found:
        changed = (rgb != canvas).any(axis=2)
        assert not changed[shown == 0].any()
        assert (host & (shown > 127)).sum() > 0.85 * (shown > 127).sum() > 0
        assert (shown > 127).sum() < 0.5 * host.sum()


def test_a_tap_beside_a_worn_thing_means_the_host_with_it(pairs: Rgba) -> None:
    worn = [samples._worn(pairs, index % len(pairs), 96, np.random.default_rng(index)) for index in range(30)]
    nested = 0
    for _, things in worn:
        taken = np.zeros((96, 96), np.int64)
        for thing in things:
            assert not (thing.own & (thing.mask < 128)).any()
            taken += thing.own
            nested += any(other is not thing and (other.own & (thing.mask > 127)).sum() > 8 for other in things)
        assert taken.max() <= 1  # no point means two things
    assert nested >= 10


def test_the_correction_is_the_middle_of_the_largest_error() -> None:
    wanted = np.zeros((40, 60), np.bool_)
    wanted[10:30, 5:25] = True
    predicted = np.zeros_like(wanted)
    predicted[5:35, 35:59] = True
    assert correction(predicted, wanted) is not None
    (x, y), positive = correction(predicted, wanted) or ((0, 0), True)
    assert not positive
    assert abs(x - 46.5) <= 1
    assert abs(y - 19.5) <= 5
    assert correction(wanted, wanted) is None
    assert correction(np.zeros_like(wanted), wanted) == (deepest_point(wanted), True)


def test_a_right_answer_costs_less_than_a_wrong_one() -> None:
    masks = torch.zeros((1, 1, 64, 64))
    masks[..., 16:40, 8:56] = 1
    levels = [masks, torch.nn.functional.avg_pool2d(masks, 4), torch.nn.functional.avg_pool2d(masks, 8)]
    right = training_loss((20 * levels[0] - 10, 20 * levels[1] - 10, 20 * levels[2] - 10), masks)
    wrong = training_loss((10 - 20 * levels[0], 10 - 20 * levels[1], 10 - 20 * levels[2]), masks)
    assert right < 0.1
    assert wrong > 5


@pytest.mark.parametrize("shape", [(3, 8, 30), (2, 40, 12)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape), rounds=8).float())
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_the_optimiser_lowers_a_loss() -> None:
    torch.manual_seed(0)
    weight = torch.randn(12, 4, 3, 3, requires_grad=True)
    target = torch.randn_like(weight)
    optimiser = Muon([weight], lr=0.1)
    before = float((weight - target).detach().square().mean())
    for _ in range(60):
        weight.grad = 2 * (weight - target).detach()
        optimiser.step()
    assert float((weight - target).detach().square().mean()) < before / 2


def test_a_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    assert load_checkpoint(path) is None
    save_checkpoint(path, {"step": 1, "weights": torch.arange(5)})
    save_checkpoint(path, {"step": 2, "weights": torch.arange(7)})
    state = load_checkpoint(path)
    assert state is not None
    assert state["step"] == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_the_mean_of_two_networks_lies_between_them() -> None:
    first, second = (EmbeddedNetwork().state_dict() for _ in range(2))
    floats = [
        {name: weight for name, weight in state.items() if weight.is_floating_point()} for state in (first, second)
    ]
    mean = network_with(mean_of(*floats, share=0.25)).state_dict()
    for name, weight in floats[0].items():
        assert torch.allclose(mean[name], 0.75 * weight + 0.25 * floats[1][name], atol=1e-6)
    with pytest.raises(KeyError):
        mean_of(floats[0], {"other": torch.zeros(1)})


def test_validation_photos_are_kept_out_of_training(tmp_path: Path) -> None:
    for folder, count in (("duts-val-extra", 2), ("mine", 3)):
        (tmp_path / folder).mkdir()
        for index in range(count):
            cv2.imwrite(str(tmp_path / folder / f"{folder}{index}.jpg"), np.full((20, 30, 3), 90, np.uint8))
            cv2.imwrite(str(tmp_path / folder / f"{folder}{index}.png"), np.full((20, 30), 255, np.uint8))
    cache = tmp_path / "cache"
    assert load_pairs(tmp_path, validation=False, size=16, cache=cache).shape == (3, 16, 16, 4)
    assert load_pairs(tmp_path, validation=True, size=16, cache=cache).shape == (2, 16, 16, 4)
