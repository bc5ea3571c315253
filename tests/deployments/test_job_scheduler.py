"""Jobs outlive their process: restart, turns, expiry, deletion and the words of failure."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.job_scheduler import JobScheduler, to_prompt
from pipeline.errors import FileNotFound, JobNotFound, JobNotReady, StorageError, StorageFull
from pipeline.jobs.artifacts import LocalArtifacts
from pipeline.jobs.store import JobObject
from pipeline.operations.extract_and_remove import artifact_names
from pipeline.protocols import Inpainter, Segmenter
from tests.deployments.world import WatchedStore
from tests.stub_models import PATIENCE_S, ColourInpainter, DiscSegmenter, HeldSegmenter, encode, photo

ONE = (JobObject(((60.0, 45.0),), (1,)),)


class Clock:
    """The store's time, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


class Process:
    """One life of JobManager on a folder."""

    def __init__(self, folder: Path, scheduler: JobScheduler, store: WatchedStore, artifacts: LocalArtifacts) -> None:
        self.folder = folder
        self.scheduler = scheduler
        self.store = store
        self.artifacts = artifacts

    async def add(self, job_id: str) -> None:
        """A job with its upload, as the ingress makes it."""
        self.artifacts.write(job_id, "original.png", encode(photo()))
        await self.scheduler.create(job_id, width=120, height=90)


@contextlib.asynccontextmanager
async def run(
    folder: Path,
    *,
    segmenter: Segmenter | None = None,
    inpainter: Inpainter | None = None,
    artifacts: LocalArtifacts | None = None,
    now: Callable[[], float] | None = None,
    **options: Any,
) -> AsyncIterator[Process]:
    folder.mkdir(exist_ok=True)
    clock = {} if now is None else {"now": now}
    store = WatchedStore(f"sqlite:///{folder / 'jobs.db'}", ttl_s=3600, **clock)
    artifacts = artifacts or LocalArtifacts(folder)
    scheduler = JobScheduler(
        store,
        artifacts,
        segmenter=segmenter or DiscSegmenter(),
        inpainter=inpainter or ColourInpainter(),
        **options,
    )
    await scheduler.start()
    try:
        yield Process(folder, scheduler, store, artifacts)
    finally:
        await scheduler.stop()


async def test_an_accepted_job_is_finished_after_a_restart(tmp_path: Path) -> None:
    held = HeldSegmenter()
    async with run(tmp_path, segmenter=held) as process:
        await process.add("a")
        await process.scheduler.segment("a", ONE)
        await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
    async with run(tmp_path) as process:
        record = await process.store.ended("a")
    assert record.state == "ready"
    assert sorted(record.files) == sorted(artifact_names(1))


async def test_a_job_that_never_had_its_turn_is_finished_after_a_restart(tmp_path: Path) -> None:
    held = HeldSegmenter()
    async with run(tmp_path, segmenter=held, max_running=1) as process:
        for job_id in ("a", "b"):
            await process.add(job_id)
            await process.scheduler.segment(job_id, ONE)
        await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
        assert (await process.scheduler.get("b")).stage == "queued"
    async with run(tmp_path) as process:
        assert (await process.store.ended("b")).state == "ready"


async def test_a_restart_keeps_what_a_job_was_asked_for(tmp_path: Path) -> None:
    objects = (JobObject(((60.5, 45.0), (10.0, 11.0)), (1, 0)), JobObject(((20.0, 30.0),), (1,)))
    held, second = HeldSegmenter(), DiscSegmenter()
    async with run(tmp_path, segmenter=held) as process:
        await process.add("a")
        await process.scheduler.segment("a", objects)
    async with run(tmp_path, segmenter=second) as process:
        await process.store.ended("a")
    (prompts,) = second.prompts
    np.testing.assert_array_equal(prompts[0].points, [[60.5, 45], [10, 11]])
    np.testing.assert_array_equal(prompts[0].labels, [1, 0])
    assert len(prompts) == 2


async def test_progress_does_not_fall_over_a_restart(tmp_path: Path) -> None:
    held = HeldSegmenter()
    async with run(tmp_path, segmenter=held) as process:
        await process.add("a")
        await process.scheduler.segment("a", ONE)
        await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
        before = (await process.scheduler.get("a")).progress
    async with run(tmp_path) as process:
        await process.store.ended("a")
        progress = [before, *(record.progress for record in process.store.history)]
    assert before > 0
    assert progress == sorted(progress)


async def test_finished_jobs_are_left_alone_by_a_restart(tmp_path: Path) -> None:
    async with run(tmp_path) as process:
        await process.add("a")
        await process.add("b")
        await process.scheduler.segment("a", ONE)
        done = await process.store.ended("a")
    async with run(tmp_path) as process:
        assert await process.scheduler.get("a") == done
        assert (await process.scheduler.get("b")).state == "uploaded"
        assert process.store.history == []


async def test_a_restarted_job_can_be_deleted(tmp_path: Path) -> None:
    async with run(tmp_path, segmenter=HeldSegmenter()) as process:
        await process.add("a")
        await process.scheduler.segment("a", ONE)
    held = HeldSegmenter()
    async with run(tmp_path, segmenter=held) as process:
        await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
        await process.scheduler.delete("a")
        assert held.inside == 0
        with pytest.raises(JobNotFound):
            await process.scheduler.get("a")


async def test_no_more_jobs_run_at_once_than_allowed(tmp_path: Path) -> None:
    held = HeldSegmenter()
    async with run(tmp_path, segmenter=held, max_running=2) as process:
        for job_id in ("a", "b", "c", "d"):
            await process.add(job_id)
            await process.scheduler.segment(job_id, ONE)
        await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
        held.release.set()
        for job_id in ("a", "b", "c", "d"):
            assert (await process.store.ended(job_id)).state == "ready"
    assert held.most_inside <= 2


async def test_jobs_have_their_turn_in_the_order_of_their_coming(tmp_path: Path) -> None:
    held = HeldSegmenter()
    async with run(tmp_path, segmenter=held, max_running=1) as process:
        for job_id in ("c", "a", "b"):
            await process.add(job_id)
            await process.scheduler.segment(job_id, ONE)
        held.release.set()
        for job_id in ("c", "a", "b"):
            await process.store.ended(job_id)
        begun = [record.job_id for record in process.store.history if record.stage == "loading"]
    assert begun == ["c", "a", "b"]


async def test_a_failed_job_gives_its_turn_back(tmp_path: Path) -> None:
    async with run(tmp_path, max_running=1) as process:
        await process.scheduler.create("no-file", width=120, height=90)
        await process.scheduler.segment("no-file", ONE)
        assert (await process.store.ended("no-file")).state == "error"
        await process.add("a")
        await process.scheduler.segment("a", ONE)
        assert (await process.store.ended("a")).state == "ready"


async def test_an_expired_job_goes_with_its_files(tmp_path: Path) -> None:
    clock = Clock()
    swept = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Watched(LocalArtifacts):
        def delete_job(self, job_id: str) -> None:
            super().delete_job(job_id)
            loop.call_soon_threadsafe(swept.set)

    async with run(tmp_path, now=clock) as process:
        await process.add("a")
    clock.seconds += 3601
    async with run(tmp_path, now=clock, artifacts=Watched(tmp_path)) as process:
        await asyncio.wait_for(swept.wait(), PATIENCE_S)
        with pytest.raises(JobNotFound):
            await process.scheduler.get("a")
    assert not list(tmp_path.glob("jobs/*"))


async def test_a_job_whose_time_is_over_is_unknown_before_it_is_swept(tmp_path: Path) -> None:
    clock = Clock()
    async with run(tmp_path, now=clock) as process:
        await process.add("a")
        clock.seconds += 3600
        with pytest.raises(JobNotFound):
            await process.scheduler.segment("a", ONE)


async def test_a_job_at_work_does_not_expire(tmp_path: Path) -> None:
    clock, held = Clock(), HeldSegmenter()
    async with run(tmp_path, now=clock, segmenter=held) as process:
        await process.add("a")
        await process.scheduler.segment("a", ONE)
        await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
        clock.seconds += 10_000
        assert process.store.forget_expired() == []
        held.release.set()
        assert (await process.store.ended("a")).state == "ready"


async def test_the_sweep_outlives_a_failing_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    again = asyncio.Event()
    loop = asyncio.get_running_loop()

    def fail(self: WatchedStore) -> list[str]:
        nonlocal calls
        calls += 1
        if calls == 3:
            loop.call_soon_threadsafe(again.set)
        raise OSError("the disk is away")

    monkeypatch.setattr(WatchedStore, "forget_expired", fail)
    async with run(tmp_path, sweep_every_s=0):
        await asyncio.wait_for(again.wait(), PATIENCE_S)


async def test_an_unforeseen_failure_is_told_in_safe_words(tmp_path: Path) -> None:
    class Broken(LocalArtifacts):
        def write(self, job_id: str, name: str, data: bytes) -> None:
            if name != "original.png":
                raise PermissionError(13, "Permission denied", "/srv/secret/jobs")
            super().write(job_id, name, data)

    async with run(tmp_path, artifacts=Broken(tmp_path)) as process:
        await process.add("a")
        await process.scheduler.segment("a", ONE)
        record = await process.store.ended("a")
    assert record.error == "Processing failed. Try again, or try with another photo."


@pytest.mark.parametrize("error", [StorageFull("The server has no room."), StorageError("Could not store a file.")])
async def test_a_result_that_cannot_be_stored_is_an_error_and_not_listed(tmp_path: Path, error: StorageError) -> None:
    class Full(LocalArtifacts):
        def write(self, job_id: str, name: str, data: bytes) -> None:
            if name == "cropped_0.png":
                raise error
            super().write(job_id, name, data)

    async with run(tmp_path, artifacts=Full(tmp_path)) as process:
        await process.add("a")
        await process.scheduler.segment("a", ONE)
        record = await process.store.ended("a")
    assert (record.state, record.error) == ("error", error.detail)
    assert "cropped_0.png" not in record.files


async def test_an_end_that_cannot_be_recorded_is_logged_and_reached_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service_log: pytest.LogCaptureFixture
) -> None:
    def fail(self: WatchedStore, job_id: str, *, error: str | None = None) -> None:
        raise StorageFull("The server has no room for more jobs.")

    async with run(tmp_path) as process:
        await process.add("a")
        with monkeypatch.context() as patch:
            patch.setattr(WatchedStore, "finish", fail)
            await process.scheduler.segment("a", ONE)
            await asyncio.gather(*process.scheduler._running.values())
    assert "The end of job a could not be recorded" in service_log.text
    async with run(tmp_path) as process:
        assert (await process.store.ended("a")).state == "ready"


async def test_a_job_whose_upload_is_gone_is_an_error(tmp_path: Path) -> None:
    async with run(tmp_path) as process:
        await process.scheduler.create("a", width=120, height=90)
        await process.scheduler.segment("a", ONE)
        assert (await process.store.ended("a")).error == "File not found"


async def test_every_listed_file_is_stored(tmp_path: Path) -> None:
    """Whoever sees a name in the status can fetch it: the file is written before the record lists it."""
    missing = []

    class Checking(WatchedStore):
        def advance(self, job_id: str, **changes: Any) -> Any:
            record = super().advance(job_id, **changes)
            missing.extend(name for name in record.files if not (tmp_path / "jobs" / job_id / name).is_file())
            return record

    store = Checking(f"sqlite:///{tmp_path / 'jobs.db'}", ttl_s=3600)
    artifacts = LocalArtifacts(tmp_path)
    scheduler = JobScheduler(store, artifacts, segmenter=DiscSegmenter(), inpainter=ColourInpainter())
    await scheduler.start()
    process = Process(tmp_path, scheduler, store, artifacts)
    await process.add("a")
    await scheduler.segment("a", ONE * 3)
    record = await store.ended("a")
    await scheduler.stop()
    assert len(record.files) == 11
    assert missing == []


async def test_deletion_waits_for_a_file_that_is_being_written(tmp_path: Path) -> None:
    """A write that outlives its job would bring the deleted folder back."""
    writing, go_on = threading.Event(), threading.Event()

    class Slow(LocalArtifacts):
        def write(self, job_id: str, name: str, data: bytes) -> None:
            if name == "mask_0.png":
                writing.set()
                assert go_on.wait(PATIENCE_S)
            super().write(job_id, name, data)

    async with run(tmp_path, artifacts=Slow(tmp_path)) as process:
        await process.add("a")
        await process.scheduler.segment("a", ONE)
        assert await asyncio.to_thread(writing.wait, PATIENCE_S)
        deletion = asyncio.create_task(process.scheduler.delete("a"))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(deletion), 0.05)
        go_on.set()
        await deletion
        await asyncio.get_running_loop().shutdown_default_executor()  # every write has ended
    assert not list(tmp_path.glob("jobs/*"))


async def test_a_file_the_job_lists_may_be_fetched(tmp_path: Path) -> None:
    async with run(tmp_path) as process:
        await process.add("a")
        await process.scheduler.require_file("a", "original.png")
        with pytest.raises(JobNotReady):
            await process.scheduler.require_file("a", "mask_0.png")
        with pytest.raises(FileNotFound):
            await process.scheduler.require_file("a", "mask_16.png")


def test_a_prompt_holds_points_and_labels_as_arrays() -> None:
    prompt = to_prompt(JobObject(((1.5, 2.0), (3.0, 4.0)), (1, 0)))
    assert (prompt.points.dtype, prompt.labels.dtype) == (np.float32, np.uint8)
    np.testing.assert_array_equal(prompt.points, [[1.5, 2], [3, 4]])
