"""Weight files become engines of the three protocols; networks are small here, files and all between are real."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import ModelNotLoaded, Overloaded
from pipeline.models import torch_engines
from pipeline.models.birefnet.shape import TINY
from pipeline.models.lama.network import LamaGenerator
from pipeline.models.mobile_sam.network import MobileSam
from pipeline.models.sidecar import record
from pipeline.models.torch_engines import inpainting, matting, network_of, on_cpu_instead, segmentation
from pipeline.models.weights import VerifiedWeights, verify_weights
from pipeline.models.zoo import VARIANTS
from pipeline.types import Image, Prompt
from tests.golden.goldens import give_synthetic_weights
from tests.pipeline.models.mobile_sam.conftest import SHAPE as SMALL

PHOTO: Image = np.random.default_rng(3).integers(0, 256, (64, 96, 3), np.uint8)


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch_engines.SHAPES, "swin_v1_t", TINY)
    monkeypatch.setattr(torch_engines, "MobileSam", partial(MobileSam, SMALL))
    monkeypatch.setattr(torch_engines, "LamaGenerator", partial(LamaGenerator, width=4, blocks=1))


def weights_of(name: str, folder: Path) -> VerifiedWeights:
    """A verified file of variant ``name``, for images of 64 x 96."""
    network = network_of(VARIANTS[name])
    give_synthetic_weights(network)
    path = folder / VARIANTS[name].unpinned_file_name
    save_file(network.state_dict(), path)
    record(path, name, "synthetic")
    return verify_weights(path, dataclasses.replace(VARIANTS[name], input_size_hw=(64, 96)), allow_unpinned=True)


def alpha(weights: VerifiedWeights, meanwhile: Callable[[VerifiedWeights], None]) -> np.ndarray:
    engine = matting(weights, "cpu")
    assert (engine.info.model_version, engine.info.device) == ("BiRefNet-lite+synthetic", "cpu")
    assert engine.info.input_size_hw == (64, 96)
    meanwhile(weights)
    return engine.estimate_alpha([PHOTO])[0]


def mask(weights: VerifiedWeights, meanwhile: Callable[[VerifiedWeights], None]) -> np.ndarray:
    engine = segmentation(weights, "cpu")
    assert (engine.info.model_version, engine.info.device) == ("MobileSAM+synthetic", "cpu")
    meanwhile(weights)
    prompt = Prompt(np.array([[30, 40]], np.float32), np.ones(1, np.uint8))
    return engine.decode(engine.embed([PHOTO]), [prompt])[0].probabilities[0]


def filled(weights: VerifiedWeights, meanwhile: Callable[[VerifiedWeights], None]) -> np.ndarray:
    engine = inpainting(weights, "cpu")
    assert (engine.info.model_version, engine.info.device) == ("LaMa+synthetic", "cpu")
    meanwhile(weights)
    hole = np.zeros(PHOTO.shape[:2], np.bool_)
    hole[20:40, 30:60] = True
    return engine.inpaint([PHOTO], [hole])[0][hole]


def spoil(weights: VerifiedWeights) -> None:
    """Overwrites the file in place: a network that still looked into it would now answer otherwise."""
    size = weights.path.stat().st_size
    with weights.path.open("r+b") as file:
        file.write(b"\0" * size)


@pytest.mark.parametrize(("name", "answer"), [("lite", alpha), ("mobile-sam", mask), ("lama", filled)])
def test_an_engine_answers_with_the_files_weights_whatever_becomes_of_the_file(
    tmp_path: Path, name: str, answer: Callable[..., np.ndarray]
) -> None:
    expected = answer(weights_of(name, tmp_path), lambda weights: None)
    assert expected.std() > 0
    assert np.array_equal(answer(weights_of(name, tmp_path), spoil), expected)


@pytest.mark.parametrize(("name", "load"), [("lite", matting), ("mobile-sam", segmentation), ("lama", inpainting)])
def test_a_file_of_another_network_is_refused(
    tmp_path: Path, name: str, load: Callable[[VerifiedWeights, str], object]
) -> None:
    path = tmp_path / VARIANTS[name].unpinned_file_name
    save_file(nn.Linear(2, 3).state_dict(), path)
    record(path, name, "custom")
    with pytest.raises(ModelNotLoaded, match=rf"{path.name} does not hold"):
        load(verify_weights(path, VARIANTS[name], allow_unpinned=True), "cpu")


def test_every_backbone_of_the_zoo_has_its_sizes() -> None:
    backbones = {variant.backbone for variant in VARIANTS.values() if variant.network == "birefnet"}
    assert backbones == set(torch_engines.SHAPES)


def test_a_gpu_without_room_has_the_same_engine_on_the_cpu(tmp_path: Path) -> None:
    weights = weights_of("lite", tmp_path)
    on_cpu = on_cpu_instead(matting, weights, "cuda")
    assert on_cpu is not None
    assert np.array_equal(on_cpu().estimate_alpha([PHOTO])[0], alpha(weights, lambda _: None))
    assert on_cpu().info.device == "cpu"
    assert on_cpu_instead(matting, weights, "cpu") is None


@pytest.mark.parametrize("change", [spoil, lambda weights: weights.path.unlink()], ids=["changed", "gone"])
def test_a_file_that_is_not_what_it_was_makes_no_engine(
    tmp_path: Path, change: Callable[[VerifiedWeights], None]
) -> None:
    weights = weights_of("lite", tmp_path)
    on_cpu = on_cpu_instead(matting, weights, "cuda")
    assert on_cpu is not None
    change(weights)
    with pytest.raises(ModelNotLoaded, match="not what it was"):
        on_cpu()


@pytest.mark.parametrize(("name", "answer"), [("lite", alpha), ("mobile-sam", mask), ("lama", filled)])
def test_an_engine_without_memory_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, answer: Callable[..., np.ndarray]
) -> None:
    def no_room(self: nn.Module, *args: object, **kwargs: object) -> object:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9663676416 bytes.")

    weights = weights_of(name, tmp_path)
    monkeypatch.setattr(nn.Conv2d, "forward", no_room)
    with pytest.raises(Overloaded, match="Not enough memory"):
        answer(weights, lambda _: None)
