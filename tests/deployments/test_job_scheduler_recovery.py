"""Jobs outlive their process: restarts in good order, processes that vanish or freeze in mid-job, and lost leases."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.job_sweep import JobSweep
from deployments.job_threads import JobThreads
from deployments.job_work import INTERRUPTED, QUARANTINED
from pipeline.errors import JobNotFound, LeaseLost
from pipeline.jobs.artifacts import LocalArtifacts
from pipeline.jobs.records import JobObject
from pipeline.operations.extract_and_remove import artifact_names
from tests.deployments.job_process import LEASE_S, ONE, TWO, Clock, open_store, run
from tests.deployments.world import WatchedStore
from tests.stub_models import PATIENCE_S, ColourInpainter, DiscSegmenter, HeldSegmenter


class FreezingStore(WatchedStore):
    """Freezes its whole process at one of its writes, as SIGSTOP would, and sets ``frozen``; ``thaw`` lets it go on."""

    def __init__(self, folder: Path, clock: Clock, *, at_write: int) -> None:
        super().__init__(f"sqlite:///{folder / 'jobs.db'}", ttl_s=3600, now=clock)
        self._left = at_write
        self.frozen = threading.Event()
        self.thaw = threading.Event()

    def advance(self, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            self.frozen.set()
            assert self.thaw.wait(4 * PATIENCE_S)
        return super().advance(*args, **kwargs)


class CountingArtifacts(LocalArtifacts):
    """Remembers what was written."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.written: list[str] = []

    def write(self, job_id: str, name: str, data: bytes) -> None:
        self.written.append(name)
        super().write(job_id, name, data)


async def undisturbed(folder: Path, objects: tuple[JobObject, ...]) -> dict[str, bytes]:
    """The files of a job that nothing happened to."""
    async with run(folder) as process:
        await process.begin("a", objects)
        return process.files(await process.store.ended("a"))


async def freeze(store: FreezingStore, clock: Clock) -> None:
    """Waits until the process is frozen, and for its lease to run out."""
    assert await asyncio.to_thread(store.frozen.wait, 3 * PATIENCE_S)
    clock.seconds += LEASE_S + 1


class TestRestart:
    async def test_an_accepted_job_is_finished_after_a_restart(self, tmp_path: Path) -> None:
        held = HeldSegmenter()
        async with run(tmp_path, segmenter=held) as process:
            await process.begin("a")
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
        async with run(tmp_path) as process:
            record = await process.store.ended("a")
        assert (record.state, record.attempts) == ("ready", 2)
        assert sorted(record.files) == sorted(artifact_names(1))

    async def test_a_job_that_never_had_its_turn_is_finished_after_a_restart(self, tmp_path: Path) -> None:
        held = HeldSegmenter()
        async with run(tmp_path, segmenter=held, limits={"max_running": 1}) as process:
            await process.begin("a")
            await process.begin("b")
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
            assert (await process.record("b")).stage == "queued"
        async with run(tmp_path) as process:
            record = await process.store.ended("b")
        assert (record.state, record.attempts) == ("ready", 1)

    async def test_waiting_jobs_keep_their_order(self, tmp_path: Path) -> None:
        async with run(tmp_path, segmenter=HeldSegmenter(), limits={"max_running": 1}) as process:
            for job_id in ("d", "c", "a", "b"):
                await process.begin(job_id)
        async with run(tmp_path, limits={"max_running": 1}) as process:
            await process.store.ended("b")
            begun = [record.job_id for record in process.store.history if record.stage == "loading"]
        assert begun == ["d", "c", "a", "b"]

    async def test_a_restart_keeps_what_a_job_was_asked_for(self, tmp_path: Path) -> None:
        objects = (JobObject(((60.5, 45.0), (10.0, 11.0)), (1, 0)), JobObject(((20.0, 30.0),), (1,)))
        second = DiscSegmenter()
        async with run(tmp_path, segmenter=HeldSegmenter()) as process:
            await process.begin("a", objects)
        async with run(tmp_path, segmenter=second) as process:
            await process.store.ended("a")
        (prompts,) = second.prompts
        np.testing.assert_array_equal(prompts[0].points, [[60.5, 45], [10, 11]])
        np.testing.assert_array_equal(prompts[0].labels, [1, 0])
        assert len(prompts) == 2

    async def test_finished_jobs_are_left_alone_by_a_restart(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            await process.begin("a")
            await process.add("b")
            done = await process.store.ended("a")
        async with run(tmp_path) as process:
            assert await process.record("a") == done
            assert (await process.record("b")).state == "uploaded"
            assert process.store.history == []

    async def test_a_restarted_job_can_be_deleted(self, tmp_path: Path) -> None:
        async with run(tmp_path, segmenter=HeldSegmenter()) as process:
            await process.begin("a")
        held = HeldSegmenter()
        async with run(tmp_path, segmenter=held) as process:
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
            await process.scheduler.delete("a")
            assert held.inside == 0
            with pytest.raises(JobNotFound):
                await process.scheduler.get("a")

    async def test_after_three_interruptions_a_job_is_given_up(self, tmp_path: Path) -> None:
        for attempt in (1, 2, 3):
            held = HeldSegmenter()
            async with run(tmp_path, segmenter=held) as process:
                if attempt == 1:
                    await process.begin("a")
                await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
                assert (await process.record("a")).attempts == attempt
        async with run(tmp_path) as process:
            record = await process.store.ended("a")
        assert (record.state, record.error) == ("error", INTERRUPTED)

    async def test_a_job_that_killed_models_twice_stays_quarantined(self, tmp_path: Path) -> None:
        async with run(tmp_path, segmenter=HeldSegmenter()) as process:
            await process.begin("a")
            process.store.requeue("a", 1, died=True)
            process.store.requeue("a", 1, died=True)
        segmenter = DiscSegmenter()
        async with run(tmp_path, segmenter=segmenter) as process:
            record = await process.store.ended("a")
        assert (record.state, record.error) == ("error", QUARANTINED)
        assert segmenter.embedded == []


class TestFrozenProcess:
    """The other process does not end: it freezes, its lease runs out, and later it wakes up and tries to go on."""

    @pytest.mark.parametrize("at_write", range(1, 12))
    async def test_the_next_process_finishes_the_job_without_repeating_its_steps(
        self, tmp_path: Path, at_write: int
    ) -> None:
        expected = await undisturbed(tmp_path / "undisturbed", TWO)
        folder, clock = tmp_path / "work", Clock()
        folder.mkdir()
        store = FreezingStore(folder, clock, at_write=at_write)
        segmenter, inpainter, artifacts = DiscSegmenter(), ColourInpainter(), CountingArtifacts(folder)
        async with run(folder, store=store) as frozen:
            await frozen.begin("a", TWO)
            await freeze(store, clock)
            before = open_store(folder, now=clock).get("a")
            async with run(folder, now=clock, segmenter=segmenter, inpainter=inpainter, artifacts=artifacts) as process:
                record = await process.store.ended("a")
                files = process.files(record)
                store.thaw.set()
                written = len(store.history)
                async with asyncio.timeout(PATIENCE_S):  # until it learns that it is not its turn any more
                    while not frozen.scheduler._lease.lost:
                        await asyncio.sleep(0.01)
                assert len(store.history) == written
                assert await process.record("a") == record
                assert process.files(record) == files
        assert (record.state, record.attempts) == ("ready", 2)
        assert files == expected
        made = set(expected) - set(before.files)
        assert sorted(artifacts.written) == sorted(f"r1.{name}" for name in made)
        masks_there = {"mask_0.png", "mask_1.png"} <= set(before.files)
        assert len(segmenter.embedded) == (0 if masks_there else 1)
        assert len(inpainter.windows) == sum("inpainted" in name for name in made)  # near objects share a window
        progress = [before.progress, *(kept.progress for kept in process.store.history)]
        assert progress == sorted(progress)

    async def test_who_lost_the_lease_stops_all_work_and_says_so(
        self, tmp_path: Path, service_log: pytest.LogCaptureFixture
    ) -> None:
        clock, held = Clock(), HeldSegmenter()
        async with run(tmp_path, now=clock, segmenter=held, renew_every_s=3600) as old:
            await old.begin("a")
            await old.add("b")
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
            old.scheduler.check()
            clock.seconds += LEASE_S + 1
            async with run(tmp_path, now=clock, segmenter=HeldSegmenter(), owner="successor"):
                with pytest.raises(LeaseLost):
                    await old.scheduler.segment("b", ONE)
                with pytest.raises(LeaseLost):
                    old.scheduler.check()
                async with asyncio.timeout(PATIENCE_S):
                    while held.inside:
                        await asyncio.sleep(0.01)
                with pytest.raises(LeaseLost):
                    await old.scheduler.reserve("c", client="c", size=1)
                assert (await old.record("b")).state == "uploaded"  # reading is no harm
        assert "lost the lease" in service_log.text

    async def test_the_loss_is_noticed_without_a_write(self, tmp_path: Path) -> None:
        clock, held = Clock(), HeldSegmenter()
        async with run(tmp_path, now=clock, segmenter=held, renew_every_s=0.05) as old:
            await old.begin("a")
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
            thief = open_store(tmp_path, now=clock)
            async with asyncio.timeout(PATIENCE_S):
                while not old.scheduler._lease.lost:
                    clock.seconds += LEASE_S + 1
                    with contextlib.suppress(Exception):  # while a renewal was quicker
                        thief.acquire_lease("thief", ttl_s=LEASE_S)
                    await asyncio.sleep(0.01)
                while held.inside:
                    await asyncio.sleep(0.01)
            thief.close()

    async def test_no_file_is_written_while_the_lease_is_in_doubt(self, tmp_path: Path) -> None:
        """The database refuses a late write; storage cannot."""
        held, artifacts = HeldSegmenter(), CountingArtifacts(tmp_path)
        async with run(tmp_path, segmenter=held, artifacts=artifacts, lease_ttl_s=0.3, renew_every_s=3600) as process:
            await process.begin("a")
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
            await asyncio.sleep(0.4)
            held.release.set()
            async with asyncio.timeout(PATIENCE_S):
                while (await process.record("a")).stage != "extracting":
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert artifacts.written == ["original.png"]


async def test_a_second_process_waits_for_the_lease_and_says_for_whom(
    tmp_path: Path, service_log: pytest.LogCaptureFixture
) -> None:
    async def second() -> None:
        async with run(tmp_path, owner="second") as process:
            assert (await process.store.ended("a")).state == "ready"

    async with run(tmp_path, segmenter=HeldSegmenter(), owner="first", renew_every_s=0.05) as process:
        await process.begin("a")
        waiting = asyncio.create_task(second())
        async with asyncio.timeout(PATIENCE_S):
            while "second waits for the lease of the jobs: first holds" not in service_log.text:
                await asyncio.sleep(0.01)
        assert not waiting.done()
    await waiting


@pytest.mark.slow
async def test_two_hundred_jobs_all_end_once_though_the_process_freezes_in_their_midst(tmp_path: Path) -> None:
    ids, clock, held = [f"job{number}" for number in range(200)], Clock(), HeldSegmenter()
    store = FreezingStore(tmp_path, clock, at_write=100 * 7)
    async with run(tmp_path, store=store, segmenter=held) as frozen:
        for number, job_id in enumerate(ids):
            await frozen.begin(job_id, client=f"client{number % 7}", callback_url=f"https://example.com/{job_id}")
        held.release.set()
        await freeze(store, clock)
        async with run(tmp_path, now=clock) as process:
            for job_id in ids:
                view = await process.scheduler.get(job_id, wait_s=60)
                assert view.record.state == "ready", view
                assert sorted(view.record.files) == sorted(artifact_names(1))
            outbox = process.store.due_deliveries(1000)
            store.thaw.set()
            assert sorted(delivery.job_id for delivery in outbox) == sorted(ids)
            assert len({delivery.delivery_id for delivery in outbox}) == 200
            early = {record.job_id for record in store.history if record.state == "ready"}
            late = {record.job_id for record in process.store.history if record.state == "ready"}
    assert early | late == set(ids)
    assert not early & late
    assert len(early) > 20
    assert len(late) > 20


class TestSweep:
    async def test_folders_that_no_job_knows_are_deleted_after_a_while(self, tmp_path: Path) -> None:
        store, artifacts, threads = open_store(tmp_path), LocalArtifacts(tmp_path), JobThreads()
        store.acquire_lease("test", ttl_s=60)
        store.reserve("reserved", client="c", size=1)
        store.reserve("known", client="c", size=1)
        store.create("known", width=9, height=9, size=1)
        for job_id in ("reserved", "known", "orphan"):
            artifacts.write(job_id, "original.png", b"x")
        unfinished = tmp_path / "jobs" / "known" / f".original.png.{'0' * 32}.part"
        unfinished.write_bytes(b"x")
        os.utime(unfinished, (time.time() - 7200,) * 2)
        sweep = JobSweep(store, artifacts, threads, orphan_after_s=3600)
        try:
            await sweep._delete_orphans(now=0)
            await sweep._delete_orphans(now=3599)
            assert set(artifacts.job_ids()) == {"reserved", "known", "orphan"}
            assert not unfinished.exists()
            store.create("reserved", width=9, height=9, size=1)
            await sweep._delete_orphans(now=3600)
            assert set(artifacts.job_ids()) == {"reserved", "known"}
        finally:
            await threads.close()
            store.close()
