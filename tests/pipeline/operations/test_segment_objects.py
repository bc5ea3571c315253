"""The tap: prompts in pixels of the photo, masks of the photo's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.errors import EmbeddingLost, InferenceError
from pipeline.operations.segment_objects import MAX_EMBEDDINGS, segment_objects
from pipeline.types import EmbeddingRef, MaskCandidates, Prompt
from tests.stub_models import DiscSegmenter, FailingSegmenter, photo


def tap(*points: tuple[float, float], labels: Sequence[int] | None = None) -> Prompt:
    chosen = labels or [1] * len(points)
    return Prompt(np.array(points, np.float32), np.array(chosen, np.uint8))


def test_a_prompt_is_scaled_with_its_box() -> None:
    scaled = Prompt(np.array([[10, 20]], np.float32), np.ones(1, np.uint8), (1, 2, 3, 4)).scaled(2, 0.5)
    np.testing.assert_array_equal(scaled.points, [[20, 10]])
    assert scaled.box_xyxy == (2, 1, 6, 2)


def test_scaling_leaves_the_prompt_itself_alone() -> None:
    prompt = tap((10, 20))
    prompt.scaled(2, 3)
    np.testing.assert_array_equal(prompt.points, [[10, 20]])


async def test_masks_have_the_size_of_the_photo() -> None:
    (found,) = await segment_objects(photo(90, 120), [tap((60, 45))], segmenter=DiscSegmenter())
    mask = found.mask
    assert (mask.dtype, mask.shape) == (np.bool_, (90, 120))


async def test_a_tap_marks_the_object_under_it() -> None:
    (found,) = await segment_objects(photo(), [tap((100, 20))], segmenter=DiscSegmenter(radius_px=9))
    mask = found.mask
    y, x = np.mgrid[0:90, 0:120]
    np.testing.assert_array_equal(mask, np.hypot(x - 100, y - 20) <= 9)


async def test_masks_keep_the_order_of_the_prompts() -> None:
    first, second = await segment_objects(photo(), [tap((100, 20)), tap((15, 70))], segmenter=DiscSegmenter())
    assert first.mask[20, 100]
    assert second.mask[70, 15]
    assert not first.mask[70, 15]


async def test_a_large_photo_is_embedded_at_the_models_size() -> None:
    segmenter = DiscSegmenter(largest_px=60)
    await segment_objects(photo(90, 120), [tap((60, 45))], segmenter=segmenter)
    assert segmenter.embedded == [(45, 60, 3)]


async def test_prompts_are_scaled_with_the_photo() -> None:
    segmenter = DiscSegmenter(largest_px=60)
    await segment_objects(photo(90, 120), [tap((100, 20))], segmenter=segmenter)
    np.testing.assert_array_equal(segmenter.prompts[0][0].points, [[50, 10]])


async def test_each_axis_is_scaled_by_what_it_really_shrank() -> None:
    segmenter = DiscSegmenter(largest_px=60)
    await segment_objects(photo(64, 700), [tap((350, 32))], segmenter=segmenter)
    assert segmenter.embedded == [(5, 60, 3)]  # 5.49 rows are 5
    np.testing.assert_allclose(segmenter.prompts[0][0].points, [[30, 2.5]], rtol=1e-6)


async def test_a_mask_of_a_large_photo_lies_where_the_tap_was() -> None:
    segmenter = DiscSegmenter(radius_px=5, largest_px=60)
    (found,) = await segment_objects(photo(90, 120), [tap((100, 20))], segmenter=segmenter)
    mask = found.mask
    assert mask.shape == (90, 120)
    rows, columns = np.nonzero(mask)
    assert abs(rows.mean() - 20) < 1.5
    assert abs(columns.mean() - 100) < 1.5


async def test_the_photo_is_embedded_once_for_all_prompts() -> None:
    segmenter = DiscSegmenter()
    await segment_objects(photo(), [tap((60, 45)), tap((20, 30)), tap((90, 80))], segmenter=segmenter)
    assert len(segmenter.embedded) == 1
    assert [len(prompts) for prompts in segmenter.prompts] == [3]


async def test_an_object_that_was_not_found_has_an_empty_mask() -> None:
    first, second = await segment_objects(
        photo(), [tap((60, 45)), tap((20, 30))], segmenter=DiscSegmenter(blind_for=[0])
    )
    assert not first.mask.any()
    assert (first.quality.coverage, first.quality.confidence) == (0, 0)
    assert second.mask.any()


class Forgetful(DiscSegmenter):
    """Loses so many embeddings before it answers."""

    def __init__(self, losses: int) -> None:
        super().__init__()
        self.losses = losses

    async def masks(
        self, embedding: EmbeddingRef, prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        if self.losses:
            self.losses -= 1
            raise EmbeddingLost("The image has to be embedded again.")
        return await super().masks(embedding, prompts, candidates=candidates)


@pytest.mark.parametrize("losses", [1, 2])
async def test_a_lost_embedding_is_made_again(losses: int) -> None:
    segmenter = Forgetful(losses)
    (found,) = await segment_objects(photo(), [tap((60, 45))], segmenter=segmenter)
    mask = found.mask
    assert mask[45, 60]
    assert len(segmenter.embedded) == losses + 1


async def test_an_embedding_that_is_lost_every_time_is_an_error() -> None:
    segmenter = Forgetful(losses=1000)
    with pytest.raises(EmbeddingLost):
        await segment_objects(photo(), [tap((60, 45))], segmenter=segmenter)
    assert len(segmenter.embedded) == MAX_EMBEDDINGS


async def test_a_failed_model_is_told() -> None:
    with pytest.raises(InferenceError):
        await segment_objects(
            photo(), [tap((60, 45))], segmenter=FailingSegmenter(InferenceError("Model inference failed"))
        )
