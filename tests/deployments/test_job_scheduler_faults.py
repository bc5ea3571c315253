"""What goes wrong under a job: models that die or are busy, a full disk, storage and a database that do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from deployments.job_work import FAILED, QUARANTINED, TOO_LATE
from pipeline.errors import (
    ClearcutError,
    EmbeddingLost,
    InferenceError,
    ModelNotLoaded,
    Overloaded,
    ReplicaDied,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from pipeline.jobs.artifacts import LocalArtifacts
from pipeline.operations.extract_and_remove import artifact_names
from pipeline.types import EmbeddingRef, Image, Mask, MaskCandidates, Prompt
from tests.deployments.job_process import ONE, TWO, run
from tests.deployments.world import RETRY_DELAYS_S, WatchedStore
from tests.stub_models import PATIENCE_S, ColourInpainter, DiscSegmenter, FailingSegmenter, HeldSegmenter


class Troubled:
    """Raises ``error`` at the first ``times`` calls."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error = error
        self.left = times

    def __call__(self) -> None:
        if self.left > 0:
            self.left -= 1
            raise self.error


class TroubledInpainter(ColourInpainter):
    """Paints after its trouble is over."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__()
        self._trouble = Troubled(error, times)

    async def inpaint(self, image: Image, mask: Mask) -> Image:
        self._trouble()
        return await super().inpaint(image, mask)


class TroubledArtifacts(LocalArtifacts):
    """Writes results after its trouble is over; uploads at once."""

    def __init__(self, root: Path, error: Exception, times: int) -> None:
        super().__init__(root)
        self._trouble = Troubled(error, times)

    def write(self, job_id: str, name: str, data: bytes) -> None:
        if name != "original.png":
            self._trouble()
        super().write(job_id, name, data)


class TroubledStore(WatchedStore):
    """Takes calls of one method only after its trouble is over."""

    def __init__(self, folder: Path, method: str, error: Exception, times: int) -> None:
        super().__init__(f"sqlite:///{folder / 'jobs.db'}", ttl_s=3600)
        trouble, real = Troubled(error, times), getattr(self, method)

        def troubled(*args: Any, **kwargs: Any) -> Any:
            trouble()
            return real(*args, **kwargs)

        setattr(self, method, troubled)


AWAY = StorageUnavailable("The storage does not answer. Try again in a few seconds.")
BUSY = Overloaded("The service is busy. Try again in a few seconds.")
DIED = ReplicaDied("A part of the service is restarting. Try again in a few seconds.")


class TestPassingObstacles:
    @pytest.mark.parametrize("error", [BUSY, TimeoutError(), EmbeddingLost("embed again"), AWAY], ids=lambda e: type(e))
    async def test_a_model_that_is_busy_for_a_while_costs_only_time(self, tmp_path: Path, error: Exception) -> None:
        segmenter = DiscSegmenter()
        inpainter = TroubledInpainter(error, times=len(RETRY_DELAYS_S))
        async with run(tmp_path, segmenter=segmenter, inpainter=inpainter) as process:
            await process.begin("a", TWO)
            record = await process.store.ended("a")
        assert (record.state, record.attempts, record.deaths) == ("ready", 1, 0)
        assert sorted(record.files) == sorted(artifact_names(2))

    async def test_steps_that_are_done_are_not_repeated_after_a_pause(self, tmp_path: Path) -> None:
        segmenter = DiscSegmenter()
        async with run(
            tmp_path,
            segmenter=segmenter,
            artifacts=TroubledArtifacts(tmp_path, AWAY, times=1),
            inpainter=(inpainter := ColourInpainter()),
        ) as process:
            await process.begin("a")
            record = await process.store.ended("a")
            assert record.state == "ready"
            assert sorted(process.files(record)) == sorted(artifact_names(1))
        assert len(inpainter.windows) <= 2  # the one beside the failed write may have been on its way

    @pytest.mark.parametrize(
        ("error", "text"),
        [(BUSY, BUSY.detail), (TimeoutError(), TOO_LATE), (EmbeddingLost("embed again"), FAILED)],
        ids=lambda value: type(value).__name__,
    )
    async def test_a_model_that_stays_away_is_the_jobs_error(self, tmp_path: Path, error: Exception, text: str) -> None:
        async with run(tmp_path, inpainter=TroubledInpainter(error, times=1000)) as process:
            await process.begin("a")
            record = await process.store.ended("a")
        assert (record.state, record.error) == ("error", text)

    async def test_a_storage_that_stays_away_is_the_jobs_error(self, tmp_path: Path) -> None:
        async with run(tmp_path, artifacts=TroubledArtifacts(tmp_path, AWAY, times=1000)) as process:
            await process.begin("a")
            record = await process.store.ended("a")
        assert (record.state, record.error) == ("error", AWAY.detail)
        assert record.files == ("original.png",)


class TestDatabaseAway:
    @pytest.mark.parametrize("method", ["begin", "advance", "found", "finish"])
    async def test_any_outage_of_the_database_heals(self, tmp_path: Path, method: str) -> None:
        async with run(tmp_path, store=TroubledStore(tmp_path, method, AWAY, times=2)) as process:
            await process.begin("a")
            record = await process.store.ended("a")
            assert (record.state, record.attempts) == ("ready", 1)
            assert sorted(process.files(record)) == sorted(artifact_names(1))

    async def test_a_start_waits_for_the_database(self, tmp_path: Path) -> None:
        async with run(tmp_path, segmenter=HeldSegmenter()) as process:
            await process.begin("a")
        store = TroubledStore(tmp_path, "unfinished", AWAY, times=1)
        async with run(tmp_path, store=store) as process:
            assert (await process.store.ended("a")).state == "ready"

    async def test_a_start_does_not_stop_at_a_full_disk(self, tmp_path: Path) -> None:
        held = HeldSegmenter()
        async with run(tmp_path, segmenter=held) as process:
            await process.begin("a")
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
        store = TroubledStore(tmp_path, "requeue", StorageFull("There is no room."), times=1)
        async with run(tmp_path, store=store) as process:
            assert (await process.store.ended("a")).state == "ready"

    @pytest.mark.parametrize("error", [StorageFull("There is no room."), RuntimeError("anything")], ids=str)
    async def test_an_end_that_cannot_be_recorded_is_recorded_later(self, tmp_path: Path, error: Exception) -> None:
        async with run(tmp_path, store=TroubledStore(tmp_path, "finish", error, times=2)) as process:
            await process.begin("a")
            assert (await process.store.ended("a")).state == "ready"

    async def test_a_lease_that_could_not_be_renewed_once_is_not_lost(self, tmp_path: Path) -> None:
        renewed = asyncio.Event()
        loop = asyncio.get_running_loop()

        class Away(WatchedStore):
            calls = 0

            def renew_lease(self) -> None:
                self.calls += 1
                if self.calls < 3:
                    raise AWAY
                super().renew_lease()
                loop.call_soon_threadsafe(renewed.set)

        store = Away(f"sqlite:///{tmp_path / 'jobs.db'}", ttl_s=3600)
        async with run(tmp_path, store=store, renew_every_s=0.01) as process:
            await asyncio.wait_for(renewed.wait(), PATIENCE_S)
            process.scheduler.check()
            await process.begin("a")
            assert (await process.store.ended("a")).state == "ready"


class TestErrors:
    @pytest.mark.parametrize("method", ["begin", "advance", "found"])
    async def test_a_step_that_the_full_disk_does_not_record_is_the_jobs_error(
        self, tmp_path: Path, method: str
    ) -> None:
        full = StorageFull("The server has no room for more jobs.")
        async with run(tmp_path, store=TroubledStore(tmp_path, method, full, times=1)) as process:
            await process.begin("a")
            record = await process.store.ended("a")
        assert (record.state, record.error) == ("error", full.detail)

    @pytest.mark.parametrize("error", [StorageFull("The server has no room."), StorageError("Could not store a file.")])
    async def test_a_result_that_cannot_be_stored_is_an_error_and_not_listed(
        self, tmp_path: Path, error: StorageError
    ) -> None:
        class Full(LocalArtifacts):
            def write(self, job_id: str, name: str, data: bytes) -> None:
                if name == "r1.cropped_0.png":
                    raise error
                super().write(job_id, name, data)

        async with run(tmp_path, artifacts=Full(tmp_path)) as process:
            await process.begin("a")
            record = await process.store.ended("a")
        assert (record.state, record.error) == ("error", error.detail)
        assert "cropped_0.png" not in record.files

    async def test_an_unforeseen_failure_is_told_in_safe_words(self, tmp_path: Path) -> None:
        error = PermissionError(13, "Permission denied", "/srv/secret/jobs")
        async with run(tmp_path, artifacts=TroubledArtifacts(tmp_path, error, times=1000)) as process:
            await process.begin("a")
            assert (await process.store.ended("a")).error == FAILED

    @pytest.mark.parametrize("error", [InferenceError("Model inference failed"), ModelNotLoaded("No weights.")])
    async def test_a_models_own_error_is_told_at_once(self, tmp_path: Path, error: ClearcutError) -> None:
        async with run(tmp_path, segmenter=FailingSegmenter(error)) as process:
            await process.begin("a")
            record = await process.store.ended("a")
        assert (record.state, record.error, record.attempts) == ("error", error.detail, 1)

    async def test_a_job_whose_upload_is_gone_is_an_error(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            await process.add("a", upload=False)
            await process.scheduler.segment("a", ONE)
            assert (await process.store.ended("a")).error == "File not found"


class Mortal(DiscSegmenter):
    """Dies under photos that ``kills`` tells; counts how many jobs are inside, and notes who was beside the dying."""

    def __init__(self, kills: Callable[[Sequence[Prompt]], bool]) -> None:
        super().__init__()
        self._kills = kills
        self.inside = 0
        self.most_beside_retry = 0
        self.deaths = 0

    async def masks(
        self, embedding: EmbeddingRef, prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        self.inside += 1
        try:
            await asyncio.sleep(0.02)  # others may come in meanwhile
            if self._kills(prompts):
                if self.deaths:
                    self.most_beside_retry = max(self.most_beside_retry, self.inside - 1)
                self.deaths += 1
                raise DIED
            return await super().masks(embedding, prompts, candidates=candidates)
        finally:
            self.inside -= 1


class TestDeaths:
    async def test_a_job_under_which_a_model_died_once_is_finished(self, tmp_path: Path) -> None:
        deaths = iter([True])
        async with run(tmp_path, segmenter=Mortal(lambda prompts: next(deaths, False))) as process:
            await process.begin("a")
            record = await process.store.ended("a")
        assert (record.state, record.deaths, record.attempts) == ("ready", 1, 2)

    async def test_a_photo_that_kills_models_is_given_up_and_the_others_are_finished(self, tmp_path: Path) -> None:
        segmenter = Mortal(lambda prompts: len(prompts) == 2)
        async with run(tmp_path, segmenter=segmenter) as process:
            await process.begin("poison", TWO)
            for number in range(6):
                await process.begin(f"job{number}")
            record = await process.store.ended("poison")
            for number in range(6):
                assert (await process.store.ended(f"job{number}")).state == "ready"
        assert (record.state, record.error, record.deaths) == ("error", QUARANTINED, 2)
        assert segmenter.deaths == 2

    async def test_the_second_try_is_alone(self, tmp_path: Path) -> None:
        segmenter = Mortal(lambda prompts: len(prompts) == 2)
        async with run(tmp_path, segmenter=segmenter, limits={"max_running": 4}) as process:
            for number in range(4):
                await process.begin(f"early{number}")
            await process.begin("poison", TWO, client="other")
            for number in range(4):
                await process.begin(f"late{number}")
            await process.store.ended("poison")
            for number in range(4):
                await process.store.ended(f"late{number}")
        assert segmenter.deaths == 2
        assert segmenter.most_beside_retry == 0

    async def test_a_job_segmented_again_after_quarantine_is_tried_anew(self, tmp_path: Path) -> None:
        segmenter = Mortal(lambda prompts: len(prompts) == 2)
        async with run(tmp_path, segmenter=segmenter) as process:
            await process.begin("a", TWO)
            await process.store.ended("a")
            await process.scheduler.segment("a", ONE)
            record = await process.store.ended("a")
        assert (record.state, record.deaths) == ("ready", 0)
