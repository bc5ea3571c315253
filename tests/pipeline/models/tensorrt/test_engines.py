"""Engines on compiled graphs answer what the predictors answer; here the graphs run in PyTorch and on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from pipeline.errors import InferenceError, InvalidPoint, ShapeMismatch, TooManyPoints
from pipeline.models.birefnet.predictor import BiRefNetPredictor
from pipeline.models.export.modules import example_inputs, graph_module, output_names, run_module
from pipeline.models.export.onnx_file import export_onnx
from pipeline.models.export.onnx_runner import OnnxRunner
from pipeline.models.export.specs import PROMPT_SLOTS, GraphSpec, inpainting
from pipeline.models.lama.predictor import LamaPredictor
from pipeline.models.mobile_sam.predictor import MobileSamPredictor
from pipeline.models.tensorrt.engines import CompiledInpainting, CompiledMatting, CompiledSegmentation, split
from pipeline.models.tensorrt.runner import batch_of
from pipeline.types import Image, Mask, Prompt
from tests.pipeline.models.export import small


class ModuleRunner:
    """A graph in PyTorch. It takes what an engine would take, and remembers the batches."""

    def __init__(self, spec: GraphSpec, network: nn.Module) -> None:
        self._spec = spec
        self._module = graph_module(spec, network)
        self.batches: list[int] = []

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.batches.append(batch_of(self._spec, inputs))
        return run_module(self._module, self._spec, dict(inputs))


class NoNumbers(ModuleRunner):
    """Every float it answers is none."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        found = super().run(inputs)
        return {name: np.full_like(a, np.nan) if a.dtype == np.float32 else a for name, a in found.items()}


def pictures(count: int, size_hw: tuple[int, int]) -> list[Image]:
    random = np.random.default_rng(3)
    return [random.integers(0, 256, (*size_hw, 3)).astype(np.uint8) for _ in range(count)]


def hole(size_hw: tuple[int, int]) -> Mask:
    mask = np.zeros(size_hw, np.bool_)
    mask[5:20, 8:30] = True
    return mask


def point(x: float, y: float) -> Prompt:
    return Prompt(np.array([[x, y]], np.float32), np.array([1], np.uint8))


def segmentation(kind: type[ModuleRunner] = ModuleRunner) -> CompiledSegmentation:
    network = small.mobile_sam()
    runners = kind(small.EMBEDDING, network), kind(small.MASKS, network)
    specs = (small.EMBEDDING, small.MASKS)
    return CompiledSegmentation(*runners, specs, model_version="MobileSAM", device="cpu")


def fill(kind: type[ModuleRunner] = ModuleRunner) -> CompiledInpainting:
    specs = {side: inpainting(side) for side in (32, 64)}
    runners = {side: kind(spec, small.lama()) for side, spec in specs.items()}
    return CompiledInpainting(runners, specs, model_version="LaMa")


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (3, [2, 1]), (8, [8]), (13, [8, 4, 1])])
def test_items_go_in_the_largest_batches_that_need_no_filling(count: int, sizes: list[int]) -> None:
    items = list(range(count))
    parts = list(split(items, (1, 2, 4, 8)))
    assert [len(part) for part in parts] == sizes
    assert [item for part in parts for item in part] == items


def test_alphas_are_the_predictors() -> None:
    images = pictures(3, (64, 96))
    expected = BiRefNetPredictor(small.birefnet(), model_version="x", input_size_hw=(64, 96)).estimate_alpha(images)
    runner = ModuleRunner(small.MATTING, small.birefnet())
    engine = CompiledMatting(runner, small.MATTING, model_version="BiRefNet-lite")
    found = engine.estimate_alpha(images)

    assert runner.batches == [2, 1]
    assert engine.info.tensorrt
    assert engine.info.input_size_hw == (64, 96)
    for alpha, theirs in zip(found, expected, strict=True):
        assert theirs.std() > 1  # or nothing would show
        np.testing.assert_allclose(alpha.astype(int), theirs.astype(int), rtol=0, atol=1)


def test_images_of_another_size_are_refused() -> None:
    engine = CompiledMatting(ModuleRunner(small.MATTING, small.birefnet()), small.MATTING, model_version="x")
    with pytest.raises(ShapeMismatch, match="must be"):
        engine.estimate_alpha(pictures(1, (96, 64)))


def test_embeddings_and_masks_are_the_predictors() -> None:
    images = [*pictures(2, (48, 30)), *pictures(1, (64, 64))]
    prompts = [
        point(10, 20),
        Prompt(np.array([[5, 6], [20, 30]], np.float32), np.array([1, 0], np.uint8)),
        Prompt(np.zeros((0, 2), np.float32), np.zeros(0, np.uint8), box_xyxy=(8, 9, 40, 50)),
    ]
    predictor = MobileSamPredictor(small.mobile_sam())
    engine = segmentation()
    theirs, ours = predictor.embed(images), engine.embed(images)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.size_hw == other.size_hw
        np.testing.assert_allclose(mine.features, other.features, rtol=0, atol=1e-4)  # type: ignore[attr-defined]

    expected = predictor.decode(theirs, prompts, candidates=3)
    found = engine.decode(ours, prompts, candidates=3)
    assert [len(answer.scores) for answer in found] == [3, 1, 1]
    for answer, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(answer.scores, other.scores, rtol=0, atol=1e-4)
        assert answer.probabilities.shape == other.probabilities.shape
        np.testing.assert_allclose(answer.probabilities.astype(int), other.probabilities.astype(int), rtol=0, atol=1)


def test_prompts_that_say_nothing_or_too_much_are_refused() -> None:
    engine = segmentation()
    (embedding,) = engine.embed(pictures(1, (64, 64)))
    with pytest.raises(InvalidPoint):
        engine.decode([embedding], [Prompt(np.zeros((1, 2), np.float32), np.zeros(1, np.uint8))])
    many = Prompt(np.zeros((PROMPT_SLOTS, 2), np.float32), np.ones(PROMPT_SLOTS, np.uint8))
    with pytest.raises(TooManyPoints, match=str(PROMPT_SLOTS)):
        engine.decode([embedding], [many])


def test_as_many_points_as_a_job_may_have_fit_with_a_box() -> None:
    engine = segmentation()
    (embedding,) = engine.embed(pictures(1, (64, 64)))
    prompt = Prompt(np.full((32, 2), 20, np.float32), np.ones(32, np.uint8), box_xyxy=(4, 4, 60, 60))
    (found,) = engine.decode([embedding], [prompt])
    assert found.probabilities.shape == (1, 64, 64)


def test_windows_of_the_graphs_sizes_are_filled_as_by_the_predictor() -> None:
    images = [*pictures(2, (64, 64)), *pictures(2, (32, 32))]
    masks = [hole((64, 64)), hole((64, 64)), hole((32, 32)), np.zeros((32, 32), np.bool_)]
    expected = LamaPredictor(small.lama(), model_version="x").inpaint(images, masks)
    found = fill().inpaint(images, masks)
    for filled, theirs, image, mask in zip(found, expected, images, masks, strict=True):
        np.testing.assert_allclose(filled.astype(int), theirs.astype(int), rtol=0, atol=1)
        assert np.array_equal(filled[~mask], image[~mask])
    assert not np.array_equal(found[0], images[0])


def test_windows_of_other_sizes_are_filled_on_the_next_larger_graph() -> None:
    image, mask = pictures(1, (24, 40))[0], hole((24, 40))
    (found,) = fill().inpaint([image], [mask])
    assert found.shape == image.shape
    assert np.array_equal(found[~mask], image[~mask])
    assert not np.array_equal(found[mask], image[mask])


def test_windows_larger_than_all_graphs_and_masks_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="larger than 64"):
        fill().inpaint(pictures(1, (65, 20)), [np.ones((65, 20), np.bool_)])
    with pytest.raises(ShapeMismatch, match="differ"):
        fill().inpaint(pictures(1, (32, 32)), [hole((32, 40))])


def test_answers_that_are_no_numbers_never_leave() -> None:
    image = pictures(1, (64, 64))
    matting = CompiledMatting(NoNumbers(small.MATTING, small.birefnet()), small.MATTING, model_version="x")
    with pytest.raises(InferenceError, match="not a number"):
        matting.estimate_alpha(pictures(1, (64, 96)))
    with pytest.raises(InferenceError, match="not a number"):
        fill(NoNumbers).inpaint(image, [hole((64, 64))])
    with pytest.raises(InferenceError, match="not a number"):
        segmentation(NoNumbers).embed(image)
    embeddings = segmentation().embed(image)
    with pytest.raises(InferenceError, match="not a number"):
        segmentation(NoNumbers).decode(embeddings, [point(3, 4)])


@pytest.mark.slow
def test_an_engine_answers_the_same_on_onnx_runtime() -> None:
    images, masks = pictures(3, (64, 64)), [hole((64, 64))] * 3
    spec = small.INPAINTING
    model = export_onnx(graph_module(spec, small.lama()), example_inputs(spec, 2), output_names(spec))
    engine = CompiledInpainting({64: OnnxRunner(model, threads=1)}, {64: spec}, model_version="LaMa")
    expected = LamaPredictor(small.lama(), model_version="x").inpaint(images, masks)
    for filled, theirs in zip(engine.inpaint(images, masks), expected, strict=True):
        np.testing.assert_allclose(filled.astype(int), theirs.astype(int), rtol=0, atol=1)
