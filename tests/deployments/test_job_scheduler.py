"""The life of jobs in one process: admission, waiting for changes, files, cancellation, deletion and expiry."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest

from deployments.job_limits import JobLimits
from pipeline.config import Settings
from pipeline.errors import (
    FileNotFound,
    JobBusy,
    JobFinished,
    JobNotFound,
    JobNotReady,
    KeyReused,
    Overloaded,
    StorageFull,
    StorageUnavailable,
)
from pipeline.jobs.artifacts import LocalArtifacts
from pipeline.jobs.records import IdempotencyKey
from pipeline.operations.extract_and_remove import artifact_names
from tests.deployments.job_process import ONE, TWO, Clock, open_store, run
from tests.deployments.world import WatchedStore
from tests.stub_models import PATIENCE_S, HeldSegmenter

KEY = IdempotencyKey("somebody /segment", "k", "0" * 64)


class TestUpload:
    async def test_a_reserved_job_is_not_seen_before_its_upload_is_there(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            record = await process.scheduler.reserve("a", client="c", size=10)
            assert record.state == "reserved"
            with pytest.raises(JobNotFound):
                await process.scheduler.get("a")

    async def test_a_discarded_reservation_leaves_neither_file_nor_bytes(self, tmp_path: Path) -> None:
        async with run(tmp_path, limits={"max_bytes": 100}) as process:
            await process.scheduler.reserve("a", client="c", size=100)
            process.artifacts.write("a", "original.png", b"half")
            await process.scheduler.discard("a")
            assert not list(tmp_path.glob("jobs/*"))
            await process.scheduler.reserve("b", client="c", size=100)

    async def test_discarding_never_takes_a_job_that_somebody_sees(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            await process.add("a")
            await process.scheduler.discard("a")
            await process.scheduler.discard("unknown")
            assert (await process.record("a")).state == "uploaded"
            assert process.artifacts.stat("a", "original.png").size > 0

    async def test_uploads_beyond_the_quota_are_refused(self, tmp_path: Path) -> None:
        async with run(tmp_path, limits={"max_bytes": 1000}) as process:
            await process.scheduler.reserve("a", client="c", size=600)
            with pytest.raises(StorageFull):
                await process.scheduler.reserve("b", client="c", size=401)
            await process.scheduler.reserve("c", client="c", size=400)

    async def test_uploads_that_would_fill_the_disk_are_refused(self, tmp_path: Path) -> None:
        async with run(tmp_path, limits={"min_free_bytes": 2**60}) as process:
            with pytest.raises(StorageFull):
                await process.scheduler.reserve("a", client="c", size=10)

    def test_the_limits_are_those_of_the_settings(self) -> None:
        settings = Settings(
            _env_file=None, max_running_jobs=3, max_waiting_jobs=7, work_dir_max_gb=0.5, work_dir_min_free_gb=2
        )
        assert JobLimits.of(settings) == JobLimits(3, 7, 2**29, 2**31)
        assert JobLimits.of(Settings(_env_file=None, work_dir_max_gb=0)).max_bytes is None


class TestSegment:
    async def test_a_job_ends_with_every_file(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            await process.begin("a", TWO)
            record = await process.store.ended("a")
            assert (record.state, record.attempts) == ("ready", 1)
            assert sorted(process.files(record)) == sorted(artifact_names(2))

    async def test_the_bytes_of_all_files_are_counted(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            await process.begin("a", TWO)
            record = await process.store.ended("a")
            assert record.bytes_stored == sum(map(len, process.files(record).values()))

    async def test_every_listed_file_is_stored(self, tmp_path: Path) -> None:
        """Whoever sees a name in the status can fetch it: the file is written before the record lists it."""
        missing: list[str] = []

        class Checking(WatchedStore):
            def advance(self, job_id: str, run: int, **changes: Any) -> Any:
                record = super().advance(job_id, run, **changes)
                places = [name if name == "original.png" else f"r{run}.{name}" for name in record.files]
                missing.extend(name for name in places if not (tmp_path / "jobs" / job_id / name).is_file())
                return record

        async with run(tmp_path, store=Checking(f"sqlite:///{tmp_path / 'jobs.db'}", ttl_s=3600)) as process:
            await process.begin("a", ONE * 3)
            assert len((await process.store.ended("a")).files) == 11
        assert missing == []

    async def test_a_job_at_work_is_busy(self, tmp_path: Path) -> None:
        async with run(tmp_path, segmenter=HeldSegmenter()) as process:
            await process.begin("a")
            with pytest.raises(JobBusy):
                await process.scheduler.segment("a", ONE)

    async def test_the_same_key_starts_the_work_once(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            await process.begin("a", key=KEY)
            await process.scheduler.segment("a", ONE, key=KEY)
            await process.store.ended("a")
            assert (await process.scheduler.segment("a", ONE, key=KEY)).state == "ready"
            with pytest.raises(KeyReused):
                await process.scheduler.segment("a", TWO, key=IdempotencyKey(KEY.scope, KEY.key, "1" * 64))
        assert sum(record.stage == "loading" for record in process.store.history) == 1

    async def test_a_job_segmented_again_leaves_only_the_new_runs_files(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            await process.begin("a", TWO)
            await process.store.ended("a")
            await process.scheduler.segment("a", ONE)
            record = await process.store.ended("a")
            assert record.run == 2
            assert sorted(process.files(record)) == sorted(artifact_names(1))
            async with asyncio.timeout(PATIENCE_S):
                while list(tmp_path.glob("jobs/a/r1.*")):
                    await asyncio.sleep(0.01)
        stored = {path.name for path in (tmp_path / "jobs" / "a").iterdir()}
        assert stored == {"original.png"} | {f"r2.{name}" for name in artifact_names(1)[1:]}

    async def test_files_of_the_run_before_stay_for_downloads_under_way(self, tmp_path: Path) -> None:
        async with run(tmp_path, old_files_s=60) as process:
            await process.begin("a")
            before = await process.store.ended("a")
            await process.scheduler.segment("a", TWO)
            assert (await process.store.ended("a")).run == 2
            assert sorted(process.files(before)) == sorted(artifact_names(1))

    async def test_too_many_waiting_jobs_are_refused_with_a_time(self, tmp_path: Path) -> None:
        async with run(tmp_path, segmenter=HeldSegmenter(), limits={"max_waiting": 2}) as process:
            await process.begin("a")
            await process.begin("b")
            await process.add("c")
            with pytest.raises(Overloaded) as refused:
                await process.scheduler.segment("c", ONE)
            assert refused.value.fields["retry_after"]
            assert (await process.record("c")).state == "uploaded"

    async def test_work_begins_even_if_the_caller_goes_away(self, tmp_path: Path) -> None:
        """Accepted is accepted: from the commit on, nobody may forget the job."""
        committed, go_on = threading.Event(), threading.Event()

        class Slow(WatchedStore):
            def start(self, *args: Any, **kwargs: Any) -> Any:
                answer = super().start(*args, **kwargs)
                committed.set()
                assert go_on.wait(PATIENCE_S)
                return answer

        async with run(tmp_path, store=Slow(f"sqlite:///{tmp_path / 'jobs.db'}", ttl_s=3600)) as process:
            await process.add("a")
            caller = asyncio.create_task(process.scheduler.segment("a", ONE))
            assert await asyncio.to_thread(committed.wait, PATIENCE_S)
            caller.cancel()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert (await process.store.ended("a")).state == "ready"

    async def test_progress_never_falls(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            await process.begin("a", TWO)
            await process.store.ended("a")
            progress = [event.record.progress for event in await process.scheduler.events("a", after=0, wait_s=0)]
        assert progress == sorted(progress)
        assert progress[-1] == 100


class TestWaiting:
    async def test_get_waits_until_the_job_has_ended(self, tmp_path: Path) -> None:
        held = HeldSegmenter()
        async with run(tmp_path, segmenter=held) as process:
            await process.begin("a")
            waiting = asyncio.create_task(process.scheduler.get("a", wait_s=PATIENCE_S))
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
            assert not waiting.done()
            held.release.set()
            assert (await waiting).record.state == "ready"

    async def test_get_answers_when_the_time_is_up(self, tmp_path: Path) -> None:
        async with run(tmp_path, segmenter=HeldSegmenter()) as process:
            await process.begin("a")
            assert (await process.scheduler.get("a", wait_s=0.05)).record.state == "processing"

    async def test_get_does_not_wait_for_a_job_that_is_not_at_work(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            await process.add("a")
            answer = process.scheduler.get("a", wait_s=60)
            assert (await asyncio.wait_for(answer, PATIENCE_S)).record.state == "uploaded"

    async def test_who_waits_for_a_deleted_job_learns_it(self, tmp_path: Path) -> None:
        held = HeldSegmenter()
        async with run(tmp_path, segmenter=held) as process:
            await process.begin("a")
            waiting = asyncio.create_task(process.scheduler.get("a", wait_s=60))
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
            await process.scheduler.delete("a")
            with pytest.raises(JobNotFound):
                await asyncio.wait_for(waiting, PATIENCE_S)

    async def test_waiting_asks_the_database_only_when_something_changed(self, tmp_path: Path) -> None:
        asked = 0

        class Counting(WatchedStore):
            def get(self, job_id: str) -> Any:
                nonlocal asked
                asked += 1
                return super().get(job_id)

        held = HeldSegmenter()
        async with run(
            tmp_path, segmenter=held, store=Counting(f"sqlite:///{tmp_path / 'jobs.db'}", ttl_s=3600)
        ) as process:
            await process.begin("a")
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
            asked = 0
            await process.scheduler.get("a", wait_s=0.1)
        assert asked == 1

    async def test_beyond_their_number_waiters_are_answered_at_once(self, tmp_path: Path) -> None:
        held = HeldSegmenter()
        async with run(tmp_path, segmenter=held, limits={"max_waiters": 2}) as process:
            await process.begin("a")
            waiting = [asyncio.create_task(process.scheduler.get("a", wait_s=60)) for _ in range(2)]
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
            extra = await asyncio.wait_for(process.scheduler.get("a", wait_s=60), PATIENCE_S)
            assert extra.record.state == "processing"
            held.release.set()
            assert [view.record.state for view in await asyncio.gather(*waiting)] == ["ready"] * 2

    async def test_events_come_in_their_order_and_once(self, tmp_path: Path) -> None:
        held = HeldSegmenter()
        async with run(tmp_path, segmenter=held) as process:
            await process.begin("a")
            seen = []
            while not seen or seen[-1].kind != "end":
                after = seen[-1].number if seen else 0
                seen += await process.scheduler.events("a", after=after, wait_s=PATIENCE_S)
                held.release.set()
        assert [event.number for event in seen] == list(range(1, len(seen) + 1))
        assert [event.name for event in seen if event.kind == "stage"] == [
            "queued",
            "loading",
            "segmenting",
            "extracting",
        ]
        assert {event.name for event in seen if event.kind == "artifact"} == set(artifact_names(1)) - {"original.png"}
        assert seen[-1].name == "ready"

    async def test_events_of_a_job_that_stands_still_are_none(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            await process.add("a")
            assert await process.scheduler.events("a", after=0, wait_s=0.05) == []
            with pytest.raises(JobNotFound):
                await process.scheduler.events("unknown", after=0, wait_s=0.05)


class TestFiles:
    async def test_a_listed_file_has_a_place_of_its_run(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            await process.begin("a")
            await process.store.ended("a")
            assert await process.scheduler.file("a", "original.png") == "original.png"
            assert await process.scheduler.file("a", "mask_0.png") == "r1.mask_0.png"

    async def test_a_file_still_to_come_is_not_ready(self, tmp_path: Path) -> None:
        async with run(tmp_path, segmenter=HeldSegmenter()) as process:
            await process.add("a")
            with pytest.raises(JobNotReady):
                await process.scheduler.file("a", "mask_15.png")
            await process.scheduler.segment("a", ONE)
            with pytest.raises(JobNotReady):
                await process.scheduler.file("a", "mask_0.png")
            with pytest.raises(FileNotFound):
                await process.scheduler.file("a", "mask_1.png")

    async def test_any_other_name_is_unknown(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            await process.begin("a")
            await process.store.ended("a")
            for name in ("mask_16.png", "r1.mask_0.png", "../a/original.png"):
                with pytest.raises(FileNotFound):
                    await process.scheduler.file("a", name)
            with pytest.raises(JobNotFound):
                await process.scheduler.file("b", "original.png")


class TestCancel:
    async def test_a_waiting_job_is_canceled_without_ever_beginning(self, tmp_path: Path) -> None:
        held = HeldSegmenter()
        async with run(tmp_path, segmenter=held, limits={"max_running": 1}) as process:
            await process.begin("a")
            await process.begin("b")
            assert (await process.scheduler.cancel("b")).state == "canceled"
            held.release.set()
            await process.store.ended("a")
            assert (await process.record("b")).state == "canceled"
        assert all(record.attempts == 0 for record in process.store.history if record.job_id == "b")

    async def test_a_canceled_jobs_calls_to_the_models_end_before_the_answer(self, tmp_path: Path) -> None:
        held = HeldSegmenter()
        async with run(tmp_path, segmenter=held) as process:
            await process.begin("a")
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
            await process.scheduler.cancel("a")
            assert held.inside == 0

    async def test_what_a_canceled_job_had_made_is_gone(self, tmp_path: Path) -> None:
        writing, go_on = threading.Event(), threading.Event()

        class Slow(LocalArtifacts):
            def write(self, job_id: str, name: str, data: bytes) -> None:
                if name == "r1.cropped_0.png":
                    writing.set()
                    assert go_on.wait(PATIENCE_S)
                super().write(job_id, name, data)

        async with run(tmp_path, artifacts=Slow(tmp_path)) as process:
            await process.begin("a")
            assert await asyncio.to_thread(writing.wait, PATIENCE_S)
            cancellation = asyncio.create_task(process.scheduler.cancel("a"))
            await asyncio.wait_for(process.store.ended("a"), PATIENCE_S)
            go_on.set()
            record = await cancellation
        assert (record.state, record.files) == ("canceled", ("original.png",))
        assert [path.name for path in tmp_path.glob("jobs/a/*")] == ["original.png"]

    async def test_a_canceled_job_gives_its_turn_to_the_next(self, tmp_path: Path) -> None:
        held = HeldSegmenter()
        async with run(tmp_path, segmenter=held, limits={"max_running": 1}) as process:
            await process.begin("a")
            await process.begin("b")
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
            held.release.set()
            with contextlib.suppress(JobFinished):
                await process.scheduler.cancel("a")
            assert (await process.store.ended("b")).state == "ready"

    async def test_a_finished_job_cannot_be_canceled(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            await process.begin("a")
            await process.store.ended("a")
            with pytest.raises(JobFinished):
                await process.scheduler.cancel("a")

    async def test_a_canceled_job_can_be_segmented_again(self, tmp_path: Path) -> None:
        held = HeldSegmenter()
        async with run(tmp_path, segmenter=held) as process:
            await process.begin("a")
            await process.scheduler.cancel("a")
            await process.scheduler.segment("a", TWO)
            held.release.set()
            record = await process.store.ended("a")
            assert record.state == "ready"
            assert sorted(process.files(record)) == sorted(artifact_names(2))

    async def test_cancelling_and_segmenting_at_once_leave_one_of_the_two(self, tmp_path: Path) -> None:
        """A cancellation ends the run it was meant for, never the one after it."""
        held = HeldSegmenter()
        async with run(tmp_path, segmenter=held) as process:
            await process.begin("a")
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
            held.release.set()
            cancel = asyncio.create_task(process.scheduler.cancel("a"))
            segment = asyncio.create_task(process.scheduler.segment("a", TWO))
            await asyncio.gather(cancel, segment)
            view = await process.scheduler.get("a", wait_s=PATIENCE_S)
        assert (view.record.state, view.record.run) == ("ready", 2)


class TestDelete:
    async def test_a_deleted_job_is_gone_with_its_files(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            await process.begin("a")
            await process.store.ended("a")
            await process.scheduler.delete("a")
            with pytest.raises(JobNotFound):
                await process.scheduler.delete("a")
            assert process.store.doomed() == []
        assert not list(tmp_path.glob("jobs/*"))

    async def test_deletion_waits_for_a_file_that_is_being_written(self, tmp_path: Path) -> None:
        """A write that outlives its job would bring the deleted folder back."""
        writing, go_on = threading.Event(), threading.Event()

        class Slow(LocalArtifacts):
            def write(self, job_id: str, name: str, data: bytes) -> None:
                if name == "r1.mask_0.png":
                    writing.set()
                    assert go_on.wait(PATIENCE_S)
                super().write(job_id, name, data)

        async with run(tmp_path, artifacts=Slow(tmp_path)) as process:
            await process.begin("a")
            assert await asyncio.to_thread(writing.wait, PATIENCE_S)
            deletion = asyncio.create_task(process.scheduler.delete("a"))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(deletion), 0.05)
            go_on.set()
            await deletion
        assert not list(tmp_path.glob("jobs/*"))

    async def test_a_reserved_job_cannot_be_deleted_by_its_id(self, tmp_path: Path) -> None:
        async with run(tmp_path) as process:
            await process.scheduler.reserve("a", client="c", size=10)
            with pytest.raises(JobNotFound):
                await process.scheduler.delete("a")
            await process.scheduler.create("a", width=9, height=9, size=10)

    async def test_files_that_could_not_be_deleted_are_deleted_later(self, tmp_path: Path) -> None:
        class Away(LocalArtifacts):
            away = True

            def delete_job(self, job_id: str) -> None:
                if self.away:
                    raise StorageUnavailable("The storage does not answer.")
                super().delete_job(job_id)

        artifacts = Away(tmp_path)
        async with run(tmp_path, artifacts=artifacts, sweep_every_s=0.01) as process:
            await process.add("a")
            await process.scheduler.delete("a")
            assert list(tmp_path.glob("jobs/*"))
            artifacts.away = False
            async with asyncio.timeout(PATIENCE_S):
                while process.store.doomed():
                    await asyncio.sleep(0.01)
        assert not list(tmp_path.glob("jobs/*"))


class TestExpiry:
    async def test_an_expired_job_goes_with_its_files(self, tmp_path: Path) -> None:
        clock = Clock()
        async with run(tmp_path, now=clock) as process:
            await process.add("a")
        clock.seconds += 3601
        async with run(tmp_path, now=clock) as process:
            async with asyncio.timeout(PATIENCE_S):
                while list(tmp_path.glob("jobs/*")) or process.store.doomed():
                    await asyncio.sleep(0.01)
            with pytest.raises(JobNotFound):
                await process.scheduler.get("a")

    async def test_a_job_at_work_does_not_expire(self, tmp_path: Path) -> None:
        clock, held = Clock(), HeldSegmenter()
        async with run(tmp_path, now=clock, segmenter=held) as process:
            await process.begin("a")
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
            clock.seconds += 10_000
            assert process.store.forget_expired() == []
            held.release.set()
            assert (await process.store.ended("a")).state == "ready"

    async def test_the_sweep_outlives_a_failing_database(self, tmp_path: Path) -> None:
        calls = 0
        again = asyncio.Event()
        loop = asyncio.get_running_loop()

        class Failing(WatchedStore):
            def forget_expired(self) -> list[str]:
                nonlocal calls
                calls += 1
                if calls == 3:
                    loop.call_soon_threadsafe(again.set)
                raise OSError("the disk is away")

        store = Failing(f"sqlite:///{tmp_path / 'jobs.db'}", ttl_s=3600)
        async with run(tmp_path, sweep_every_s=0, store=store):
            await asyncio.wait_for(again.wait(), PATIENCE_S)


async def test_the_outbox_learns_of_every_end(tmp_path: Path) -> None:
    held = HeldSegmenter()
    async with run(tmp_path, segmenter=held) as process:
        told = asyncio.Event()
        process.scheduler.outbox.on_new = told.set
        await process.begin("a", callback_url="https://example.com/a")
        await process.scheduler.cancel("a")
        assert told.is_set()
        told.clear()
        await process.begin("b", callback_url="https://example.com/b")
        held.release.set()
        await asyncio.wait_for(told.wait(), PATIENCE_S)
        due = await process.scheduler.outbox.due_deliveries(9)
        assert [(delivery.job_id, delivery.record.state) for delivery in due] == [("a", "canceled"), ("b", "ready")]
        await process.scheduler.outbox.delivered(due[0].delivery_id)
        await process.scheduler.outbox.postpone_delivery(due[1].delivery_id, until=due[1].due_at + 60)
        assert await process.scheduler.outbox.next_delivery_at() == due[1].due_at + 60


async def test_work_beside_the_jobs_ends_with_the_scheduler(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def beside() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with run(tmp_path) as process:
        process.scheduler.run_beside(beside())
        await asyncio.sleep(0)
        assert not ended.is_set()
    assert ended.is_set()


async def test_a_stopped_scheduler_lets_the_next_one_in_at_once(tmp_path: Path) -> None:
    async with run(tmp_path):
        pass
    store = open_store(tmp_path)
    store.acquire_lease("next", ttl_s=5)
    store.close()
