"""The predictor around a tiny network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.errors import InferenceError, ShapeMismatch
from pipeline.models.birefnet.network import BiRefNet
from pipeline.models.birefnet.predictor import BiRefNetPredictor
from pipeline.models.birefnet.shape import TINY
from pipeline.protocols import MattingEngine
from pipeline.types import Image

SIZE_HW = (64, 96)


@pytest.fixture(scope="module")
def network() -> BiRefNet:
    torch.manual_seed(4)
    return BiRefNet(TINY)


@pytest.fixture(scope="module")
def engine(network: BiRefNet) -> MattingEngine:
    return BiRefNetPredictor(network, model_version="BiRefNet-tiny", input_size_hw=SIZE_HW)


def photo(seed: int) -> Image:
    image = np.random.default_rng(seed).integers(0, 256, (*SIZE_HW, 3), np.uint8)
    image.setflags(write=False)  # as an array from a handle
    return image


def test_info_names_what_runs(engine: MattingEngine) -> None:
    info = engine.info
    assert (info.model_version, info.device, info.input_size_hw) == ("BiRefNet-tiny", "cpu", SIZE_HW)
    assert info.degraded_reason is None


def test_alpha_is_the_rounded_probability_of_the_normalised_image(network: BiRefNet, engine: MattingEngine) -> None:
    image = photo(0)
    x = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.inference_mode():
        probability = torch.sigmoid(network(torch.from_numpy(x).float().permute(2, 0, 1)[None]))[0, 0].numpy()
    (alpha,) = engine.estimate_alpha([image])
    assert alpha.dtype == np.uint8
    assert alpha.shape == SIZE_HW
    assert np.abs(alpha - probability * 255).max() < 0.51
    assert alpha.std() > 0


def test_images_of_a_batch_do_not_change_each_other(engine: MattingEngine) -> None:
    images = [photo(seed) for seed in range(3)]
    together = engine.estimate_alpha(images)
    for image, alpha in zip(images, together, strict=True):
        (alone,) = engine.estimate_alpha([image])
        assert np.abs(alone.astype(int) - alpha).max() <= 1  # a value between two levels may be rounded either way


def test_no_more_images_go_together_than_may() -> None:
    torch.manual_seed(4)
    network = BiRefNet(TINY)
    engine = BiRefNetPredictor(network, model_version="", input_size_hw=SIZE_HW, max_images=2)
    batches: list[int] = []
    network.register_forward_hook(lambda module, inputs, output: batches.append(len(inputs[0])))
    assert len(engine.estimate_alpha([photo(seed) for seed in range(5)])) == 5
    assert batches == [2, 2, 1]


def test_no_images_have_no_alphas(engine: MattingEngine) -> None:
    assert engine.estimate_alpha([]) == []


def test_an_image_of_another_size_is_refused(engine: MattingEngine) -> None:
    with pytest.raises(ShapeMismatch, match="64, 96, 3"):
        engine.estimate_alpha([np.zeros((96, 64, 3), np.uint8)])


def test_half_precision_stays_close() -> None:
    torch.manual_seed(4)
    (expected,) = BiRefNetPredictor(BiRefNet(TINY), model_version="", input_size_hw=SIZE_HW).estimate_alpha([photo(0)])
    torch.manual_seed(4)
    engine = BiRefNetPredictor(BiRefNet(TINY), model_version="", input_size_hw=SIZE_HW, dtype=torch.bfloat16)
    (alpha,) = engine.estimate_alpha([photo(0)])
    assert np.abs(alpha.astype(int) - expected).mean() < 3


def test_an_answer_that_is_no_number_is_an_error_and_no_picture() -> None:
    torch.manual_seed(4)
    network = BiRefNet(TINY)
    network.register_forward_hook(lambda module, inputs, output: output.index_fill(3, torch.tensor(7), float("nan")))
    with pytest.raises(InferenceError, match="no alpha"):
        BiRefNetPredictor(network, model_version="", input_size_hw=SIZE_HW).estimate_alpha([photo(0)])
