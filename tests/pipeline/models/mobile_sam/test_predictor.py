"""MobileSAM as a segmentation engine, with a small network."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from pipeline.errors import InferenceError, InvalidPoint
from pipeline.models.mobile_sam.network import MobileSam
from pipeline.models.mobile_sam.predictor import MEAN, STD, MobileSamEmbedding, MobileSamPredictor
from pipeline.protocols import ImageEmbedding, SegmentationEngine
from pipeline.types import Image, MaskCandidates, Prompt

HEIGHT, WIDTH = 45, 60


@pytest.fixture
def predictor(small_network: MobileSam) -> MobileSamPredictor:
    return MobileSamPredictor(small_network)


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def prompt(*points: tuple[float, float], labels: tuple[int, ...] = (), box: tuple[float, ...] | None = None) -> Prompt:
    wanted = labels or (1,) * len(points)
    corners = None if box is None else (box[0], box[1], box[2], box[3])
    return Prompt(np.array(points, np.float32).reshape(-1, 2), np.array(wanted, np.uint8), corners)


def features(embedding: ImageEmbedding) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    assert isinstance(embedding, MobileSamEmbedding)
    return embedding.features


def assert_same(ours: MaskCandidates, expected: MaskCandidates) -> None:
    """Equal but for rounding: the order of additions depends on the batch."""
    assert ours.probabilities.shape == expected.probabilities.shape
    np.testing.assert_allclose(ours.probabilities.astype(int), expected.probabilities.astype(int), atol=1)
    np.testing.assert_allclose(ours.scores, expected.scores, atol=1e-5)


def test_it_is_a_segmentation_engine(predictor: MobileSamPredictor) -> None:
    engine: SegmentationEngine = predictor
    assert engine.info.input_size_hw == (64, 64)
    assert (engine.info.model_version, engine.info.device, engine.info.degraded_reason) == ("MobileSAM", "cpu", None)


def test_one_tap_has_up_to_three_readings_best_first(predictor: MobileSamPredictor) -> None:
    (found,) = predictor.decode(predictor.embed([picture()]), [prompt((20, 30))], candidates=5)
    assert found.probabilities.dtype == np.uint8
    assert found.probabilities.shape == (3, HEIGHT, WIDTH)
    assert found.scores.dtype == np.float32
    assert (np.diff(found.scores) <= 0).all()
    assert found.scores.min() >= 0
    assert found.scores.max() <= 1


def test_the_best_reading_is_the_one_given_alone(predictor: MobileSamPredictor) -> None:
    embeddings = predictor.embed([picture()])
    (three,) = predictor.decode(embeddings, [prompt((20, 30))], candidates=3)
    (one,) = predictor.decode(embeddings, [prompt((20, 30))])
    assert np.array_equal(one.probabilities, three.probabilities[:1])


@pytest.mark.parametrize(
    "said",
    [
        prompt((20, 30), (5, 6)),
        prompt((20, 30), (5, 6), labels=(1, 0)),
        prompt(box=(3, 4, 40, 41)),
        prompt((20, 30), box=(3, 4, 40, 41)),
    ],
    ids=["two points", "a negative point", "a box", "a point in a box"],
)
def test_more_than_a_tap_has_one_reading(predictor: MobileSamPredictor, said: Prompt) -> None:
    (found,) = predictor.decode(predictor.embed([picture()]), [said], candidates=3)
    assert found.probabilities.shape == (1, HEIGHT, WIDTH)
    assert len(found.scores) == 1


def test_images_of_different_sizes_are_embedded_as_alone(small_network: MobileSam) -> None:
    images = [picture(45, 60, 1), picture(64, 30, 2), picture(7, 5, 3)]
    alone = [MobileSamPredictor(small_network).embed([image])[0] for image in images]
    for ours, expected in zip(MobileSamPredictor(small_network, max_images=2).embed(images), alone, strict=True):
        assert ours.size_hw == expected.size_hw
        np.testing.assert_allclose(features(ours), features(expected), atol=1e-5)


def test_prompts_of_different_lengths_on_different_images_are_decoded_as_alone(small_network: MobileSam) -> None:
    predictor = MobileSamPredictor(small_network, max_prompts=3)
    wide, high = predictor.embed([picture(45, 60, 1), picture(64, 30, 2)])
    embeddings = [wide, high, wide, wide, high]
    prompts = [
        prompt((9, 9)),
        prompt((3, 4), (5, 6), (7, 8)),
        prompt(box=(1, 2, 30, 31)),
        prompt((4, 40)),
        prompt((2, 1)),
    ]
    found = predictor.decode(embeddings, prompts, candidates=2)
    for ours, embedding, said in zip(found, embeddings, prompts, strict=True):
        assert_same(ours, predictor.decode([embedding], [said], candidates=2)[0])


def test_an_embedding_is_all_that_a_later_decode_needs(small_network: MobileSam) -> None:
    first, second = MobileSamPredictor(small_network), MobileSamPredictor(small_network)
    (embedding,) = first.embed([picture()])
    first.embed([picture(seed=9)])
    (expected,) = first.decode([embedding], [prompt((20, 30))])
    (found,) = second.decode([pickle.loads(pickle.dumps(embedding))], [prompt((20, 30))])
    assert np.array_equal(found.probabilities, expected.probabilities)


def test_read_only_arrays_are_taken_and_left_as_they_are(predictor: MobileSamPredictor) -> None:
    image = picture(64, 48)
    before = image.copy()
    image.setflags(write=False)
    (embedding,) = predictor.embed([image])
    features(embedding).setflags(write=False)
    predictor.decode([embedding], [prompt((20, 30))])
    assert np.array_equal(image, before)


def test_the_frame_is_normalised_and_zero_outside_the_picture(predictor: MobileSamPredictor) -> None:
    image = picture(40, 64)
    (normalised,) = predictor.normalise([image]).numpy()
    expected = (image.astype(np.float64) - MEAN) / STD
    np.testing.assert_allclose(normalised[:, :40].transpose(1, 2, 0), expected, atol=1e-6)
    assert (normalised[:, 40:] == 0).all()


@pytest.mark.parametrize("size_hw", [(1, 64), (64, 1), (1, 1), (2, 3), (5, 7), (33, 64)])
def test_any_shape_answers_at_its_own_size(predictor: MobileSamPredictor, size_hw: tuple[int, int]) -> None:
    (found,) = predictor.decode(predictor.embed([picture(*size_hw)]), [prompt((size_hw[1] - 1, size_hw[0] - 1))])
    assert found.probabilities.shape == (1, *size_hw)


def test_nothing_in_nothing_out(predictor: MobileSamPredictor) -> None:
    assert predictor.embed([]) == []
    assert predictor.decode([], []) == []


def test_without_a_positive_point_or_box_there_is_nothing_to_select(predictor: MobileSamPredictor) -> None:
    with pytest.raises(InvalidPoint):
        predictor.decode(predictor.embed([picture()]), [prompt((3, 4), labels=(0,))])


def test_another_engines_embedding_is_refused(predictor: MobileSamPredictor) -> None:
    class Foreign:
        size_hw = (HEIGHT, WIDTH)

    with pytest.raises(TypeError, match="Foreign"):
        predictor.decode([Foreign()], [prompt((3, 4))])


def test_features_that_are_no_numbers_are_an_error(small_network: MobileSam) -> None:
    small_network.image_encoder.register_forward_hook(lambda module, inputs, output: output / 0)
    with pytest.raises(InferenceError, match="made nothing"):
        MobileSamPredictor(small_network).embed([picture()])


@pytest.mark.parametrize("broken", ["logits", "iou"])
def test_a_mask_that_is_no_number_is_an_error(small_network: MobileSam, broken: str) -> None:
    def spoil(module: torch.nn.Module, inputs: object, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        logits, iou = output
        return (logits * float("nan"), iou) if broken == "logits" else (logits, iou * float("nan"))

    predictor = MobileSamPredictor(small_network)
    embeddings = predictor.embed([picture()])
    small_network.mask_decoder.register_forward_hook(spoil)
    with pytest.raises(InferenceError, match="no mask"):
        predictor.decode(embeddings, [prompt((10, 20))])
