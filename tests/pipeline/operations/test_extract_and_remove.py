"""A job's work: which artifacts come, in what order they are told, and what an error leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest

from pipeline.errors import EmptyMask, InferenceError
from pipeline.operations.extract_and_remove import Finished, artifact_names, extract_and_remove
from pipeline.protocols import Inpainter, Segmenter
from pipeline.types import Image, Mask, MaskQuality, Prompt
from tests.stub_models import FILL, PATIENCE_S, ColourInpainter, DiscSegmenter, decode, photo

POINTS = [(60, 45), (20, 30), (100, 70)]


class Report:
    """Keeps what a job told."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.stages: list[str] = []
        self.progress: list[int] = []

    async def stage(self, name: str, progress: int) -> None:
        self.stages.append(name)
        self.progress.append(progress)

    async def found(self, qualities: Sequence[MaskQuality]) -> None:
        self.qualities = list(qualities)

    async def artifact(self, name: str, data: bytes, progress: int) -> None:
        self.files[name] = data
        self.progress.append(progress)


async def at_once(function: Callable[[], bytes]) -> bytes:
    return function()


async def work(
    count: int = 2,
    *,
    segmenter: Segmenter | None = None,
    inpainter: Inpainter | None = None,
    report: Report | None = None,
    finished: Finished | None = None,
    run_in_pool: Callable[[Callable[[], bytes]], Awaitable[bytes]] = at_once,
) -> Report:
    report = report or Report()
    prompts = [Prompt(np.array([point], np.float32), np.ones(1, np.uint8)) for point in POINTS[:count]]
    await extract_and_remove(
        photo(),
        prompts,
        segmenter=segmenter or DiscSegmenter(),
        inpainter=inpainter or ColourInpainter(),
        report=report,
        run_in_pool=run_in_pool,
        finished=finished,
    )
    return report


def test_a_job_of_ten_objects_has_32_files() -> None:
    names = artifact_names(10)
    assert len(names) == len(set(names)) == 32
    assert names[0] == "original.png"
    assert names[-1] == "full_inpainted.png"


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_every_artifact_but_the_upload_is_made(count: int) -> None:
    report = await work(count)
    assert sorted(report.files) == sorted(set(artifact_names(count)) - {"original.png"})


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_progress_rises_to_99_and_never_falls(count: int) -> None:
    report = await work(count)
    assert report.progress == sorted(report.progress)
    assert report.progress[-1] == 99


async def test_stages_are_told_in_their_order() -> None:
    assert (await work(2)).stages == ["segmenting", "extracting", "filling"]


async def test_the_full_picture_comes_last() -> None:
    assert list((await work(3)).files)[-1] == "full_inpainted.png"


async def test_the_full_picture_of_one_object_is_that_objects() -> None:
    inpainter = ColourInpainter()
    report = await work(1, inpainter=inpainter)
    assert report.files["full_inpainted.png"] == report.files["inpainted_0.png"]
    assert len(inpainter.windows) == 1


async def test_the_full_picture_is_filled_from_the_photo_and_not_from_fills() -> None:
    class Brightening(ColourInpainter):
        async def inpaint(self, image: Image, mask: Mask) -> Image:
            assert not (image[~mask] == FILL).all(axis=-1).any()
            return await super().inpaint(image, mask)

    report = await work(2, inpainter=Brightening())
    full = decode(report.files["full_inpainted.png"])
    for x, y in POINTS[:2]:
        assert tuple(full[y, x]) == FILL


async def test_masks_are_grey_cutouts_rgba_and_fills_rgb() -> None:
    report = await work(2)
    assert decode(report.files["mask_0.png"]).shape == (90, 120)
    assert decode(report.files["cropped_0.png"]).shape[2] == 4
    assert decode(report.files["inpainted_0.png"]).shape == (90, 120, 3)


async def test_an_object_without_a_mask_is_an_error_after_the_others_results() -> None:
    report = Report()
    with pytest.raises(EmptyMask, match=r"^Segmentation failed for object 1: mask too small$"):
        await work(3, segmenter=DiscSegmenter(blind_for=[1]), report=report)
    expected = {f"{kind}_{index}.png" for kind in ("mask", "cropped", "inpainted") for index in (0, 2)}
    assert set(report.files) == expected


async def test_a_mask_of_a_few_pixels_counts_as_none() -> None:
    with pytest.raises(EmptyMask):
        await work(1, segmenter=DiscSegmenter(radius_px=1))


async def test_fills_of_all_objects_are_asked_for_at_once() -> None:
    class Meeting(ColourInpainter):
        """Answers the first two only once both are there."""

        def __init__(self) -> None:
            super().__init__()
            self.barrier = asyncio.Barrier(2)

        async def inpaint(self, image: Image, mask: Mask) -> Image:
            if len(self.windows) < 2:
                self.windows.append(image.shape)
                await asyncio.wait_for(self.barrier.wait(), PATIENCE_S)
            return np.full_like(image, FILL)

    inpainter = Meeting()
    await work(2, inpainter=inpainter)
    assert len(inpainter.windows) == 2


async def test_a_failed_fill_is_the_jobs_error() -> None:
    class Failing(ColourInpainter):
        async def inpaint(self, image: Image, mask: Mask) -> Image:
            raise InferenceError("Model inference failed") from ValueError("the cause")

    with pytest.raises(InferenceError, match="Model inference failed") as caught:
        await work(3, inpainter=Failing())
    assert isinstance(caught.value.__cause__, ValueError)


async def test_nothing_runs_on_when_the_error_arrives() -> None:
    class OneFails(ColourInpainter):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.both = asyncio.Barrier(2)
            self.stopped = False

        async def inpaint(self, image: Image, mask: Mask) -> Image:
            self.calls += 1
            mine = self.calls
            await asyncio.wait_for(self.both.wait(), PATIENCE_S)
            if mine == 1:
                raise InferenceError("Model inference failed")
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)  # stopping takes its time
                self.stopped = True
            raise AssertionError("never")

    inpainter = OneFails()
    with pytest.raises(InferenceError):
        await work(2, inpainter=inpainter)
    assert inpainter.stopped


async def test_encoding_goes_through_the_pool_it_is_given() -> None:
    calls = 0

    async def counted(function: Callable[[], bytes]) -> bytes:
        nonlocal calls
        calls += 1
        return function()

    await work(2, run_in_pool=counted)
    assert calls == 3 * 2 + 1


class Left:
    """What an earlier attempt left of a whole job; notes what is read of it."""

    def __init__(self, report: Report, names: Sequence[str]) -> None:
        self._files = {name: report.files[name] for name in names}
        self.qualities = tuple(report.qualities)
        self.read_names: list[str] = []

    async def read(self, name: str) -> bytes:
        self.read_names.append(name)
        return self._files[name]

    def as_finished(self) -> Finished:
        return Finished(frozenset(self._files) | {"original.png"}, self.qualities, self.read)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_left_the_rest_comes_out_the_same(count: int, seed: int) -> None:
    whole = await work(count)
    dice = np.random.default_rng(seed)
    names = [name for name in whole.files if dice.random() < 0.6]
    left = Left(whole, names)
    report, segmenter, inpainter = Report(), DiscSegmenter(), ColourInpainter()
    await work(count, report=report, segmenter=segmenter, inpainter=inpainter, finished=left.as_finished())
    assert set(report.files) == set(whole.files) - set(names)
    assert all(whole.files[name] == data for name, data in report.files.items())
    assert len(segmenter.embedded) == (0 if {f"mask_{i}.png" for i in range(count)} <= set(names) else 1)
    assert report.progress == sorted(report.progress)
    assert report.progress[-1] == 99


async def test_with_every_mask_there_the_models_are_asked_for_fills_alone() -> None:
    whole = await work(3)
    left = Left(whole, ["mask_0.png", "mask_1.png", "mask_2.png", "cropped_1.png"])
    segmenter, report = DiscSegmenter(), Report()
    await work(3, report=report, segmenter=segmenter, finished=left.as_finished())
    assert segmenter.embedded == segmenter.prompts == []
    assert report.stages == ["extracting", "filling"]
    assert not hasattr(report, "qualities")
    assert left.read_names == ["mask_0.png", "mask_1.png", "mask_2.png"]


async def test_nothing_is_made_where_everything_is_there() -> None:
    whole = await work(2)
    segmenter, inpainter, report = DiscSegmenter(), ColourInpainter(), Report()
    finished = Left(whole, list(whole.files)).as_finished()
    await work(2, report=report, segmenter=segmenter, inpainter=inpainter, finished=finished)
    assert report.files == {}
    assert segmenter.embedded == inpainter.windows == []


async def test_masks_without_their_qualities_are_found_again() -> None:
    whole = await work(2)
    left = Left(whole, ["mask_0.png", "mask_1.png"])
    left.qualities = ()
    report = Report()
    await work(2, report=report, finished=left.as_finished())
    assert report.qualities == whole.qualities


async def test_a_stored_mask_is_kept_where_the_model_now_says_otherwise() -> None:
    """The files made from it are out already."""
    whole = await work(2)
    report = Report()
    finished = Left(whole, ["mask_0.png", "cropped_0.png"]).as_finished()
    await work(2, report=report, segmenter=DiscSegmenter(radius_px=14), finished=finished)
    np.testing.assert_array_equal(decode(report.files["inpainted_0.png"]), decode(whole.files["inpainted_0.png"]))


async def test_an_object_without_a_mask_is_the_same_error_the_second_time() -> None:
    whole = Report()
    with pytest.raises(EmptyMask):
        await work(3, segmenter=DiscSegmenter(blind_for=[1]), report=whole)
    report, left = Report(), Left(whole, ["mask_0.png", "mask_2.png", "inpainted_2.png"])
    with pytest.raises(EmptyMask, match=r"^Segmentation failed for object 1: mask too small$"):
        await work(3, segmenter=DiscSegmenter(blind_for=[1]), report=report, finished=left.as_finished())
    assert set(report.files) == {"cropped_0.png", "cropped_2.png", "inpainted_0.png"}
    assert all(whole.files[name] == data for name, data in report.files.items())
