"""The life of a job in the store, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import JobBusy, JobFinished, JobNotFound, Overloaded, StorageFull
from pipeline.jobs.records import JobRecord
from pipeline.jobs.store import JobStore
from pipeline.types import MaskQuality
from tests.pipeline.jobs.conftest import TTL_S, Clock
from tests.pipeline.jobs.jobs import OBJECTS, UPLOAD, end, process, upload


def test_a_job_reads_back_as_it_was_written(store: JobStore) -> None:
    record = process(store)
    record = store.found("a", record.run, (MaskQuality(0.1, 0.7), MaskQuality(1 / 3, 0.0)))
    assert record.objects == OBJECTS
    assert record.qualities == (MaskQuality(0.1, 0.7), MaskQuality(1 / 3, 0.0))
    assert store.get("a") == record


def test_another_store_sees_a_change_at_once(store: JobStore, open_store: Callable[[], JobStore]) -> None:
    other = open_store()
    assert process(store) == other.get("a")
    assert store.finish("a", 1) == other.get("a")
    assert other.events_after("a", 0) == store.events_after("a", 0)


def test_a_job_outlives_its_store(store: JobStore, open_store: Callable[[], JobStore]) -> None:
    written = process(store)
    store.close()
    assert open_store().get("a") == written


@pytest.mark.parametrize("name", ["with space", "what?", "50%25", "a#b", "ü"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    store = JobStore.in_folder(tmp_path / name, ttl_s=3600)
    store.close()
    assert (tmp_path / name / "jobs.db").is_file()


@pytest.mark.parametrize("job_id", ["b", "\ud800", "a\0b", "", "x" * 5000, "' OR 1=1 --", "%"], ids=ascii)
def test_an_unknown_or_strange_id_is_not_found(store: JobStore, job_id: str) -> None:
    upload(store)
    with pytest.raises(JobNotFound, match=r"^Job not found$"):
        store.get(job_id)
    with pytest.raises(JobNotFound):
        store.start(job_id, OBJECTS, keep_files=UPLOAD)
    with pytest.raises(JobNotFound):
        store.delete(job_id)
    assert store.events_after(job_id, 0) == []


class TestUpload:
    def test_a_reservation_is_hidden_until_its_upload_is_there(self, store: JobStore, clock: Clock) -> None:
        reserved = store.reserve("a", client="somebody", size=70)
        assert (reserved.state, reserved.client, reserved.bytes_stored) == ("reserved", "somebody", 70)
        with pytest.raises(JobNotFound):
            store.get("a")
        with pytest.raises(JobNotFound):
            store.start("a", OBJECTS, keep_files=UPLOAD)
        with pytest.raises(JobNotFound):
            store.cancel("a", keep_files=UPLOAD)
        clock.seconds += 5
        created = store.create("a", width=7, height=5, size=64)
        assert (created.state, created.progress, created.run, created.error) == ("uploaded", 0, 0, None)
        assert (created.width, created.height, created.files, created.bytes_stored) == (7, 5, UPLOAD, 64)
        times = (created.created_at, created.updated_at, created.expires_at)
        assert times == (clock.seconds - 5, clock.seconds, clock.seconds + TTL_S)

    def test_a_job_created_again_stays_as_it_is(self, store: JobStore) -> None:
        steps = (upload, lambda _: store.start("a", OBJECTS, keep_files=UPLOAD)[0], lambda _: store.finish("a", 1))
        for step in steps:
            record = step(store)
            assert store.create("a", width=1, height=1, size=1) == record == store.get("a")

    def test_a_job_that_was_not_reserved_is_not_created(self, store: JobStore) -> None:
        with pytest.raises(JobNotFound):
            store.create("a", width=7, height=5, size=64)

    def test_a_reservation_lives_ten_minutes(self, store: JobStore, clock: Clock) -> None:
        store.reserve("a", client="", size=70)
        clock.seconds += 599
        assert store.forget_expired() == []
        clock.seconds += 1
        with pytest.raises(JobNotFound):
            store.create("a", width=7, height=5, size=64)
        assert store.forget_expired() == ["a"]
        assert store.doomed() == ["a"]

    def test_a_reservation_can_be_dropped(self, store: JobStore) -> None:
        store.reserve("a", client="", size=70)
        store.delete("a")
        assert store.doomed() == ["a"]

    def test_no_id_is_given_twice(self, store: JobStore) -> None:
        upload(store)
        with pytest.raises(JobBusy):
            store.reserve("a", client="", size=70)
        store.delete("a")
        with pytest.raises(JobBusy):  # deleting the files of the old one would take those of the new one
            store.reserve("a", client="", size=70)
        store.buried("a")
        assert store.reserve("a", client="", size=70).state == "reserved"


class TestQuota:
    def test_reservations_uploads_and_files_count_and_a_job_that_fits_exactly_is_let_in(self, store: JobStore) -> None:
        store.reserve("reserved", client="", size=1000)
        run = process(store, "processing").run
        store.advance("processing", run, progress=5, add_file="mask_0.png", size=30)
        assert store.used_bytes() == 1130
        with pytest.raises(StorageFull):
            store.reserve("more", client="", size=71, max_bytes=1200)
        store.reserve("more", client="", size=70, max_bytes=1200)
        assert store.used_bytes() == 1200

    def test_an_upload_counts_what_it_took(self, store: JobStore) -> None:
        store.reserve("a", client="", size=1000)
        store.create("a", width=7, height=5, size=900)
        assert store.used_bytes() == 900

    def test_a_file_written_again_counts_once(self, store: JobStore) -> None:
        run = process(store).run
        store.advance("a", run, progress=1, add_file="mask_0.png", size=30)
        assert store.advance("a", run, progress=1, add_file="mask_0.png", size=50).bytes_stored == 150

    def test_what_a_new_run_unlists_counts_no_more(self, store: JobStore) -> None:
        run = process(store).run
        store.advance("a", run, progress=1, add_file="mask_0.png", size=30)
        store.finish("a", run)
        assert store.start("a", OBJECTS, keep_files=UPLOAD)[0].bytes_stored == 100

    def test_a_deleted_job_counts_until_its_files_are_gone(self, store: JobStore) -> None:
        upload(store)
        store.delete("a")
        assert store.used_bytes() == 100
        store.buried("a")
        assert store.used_bytes() == 0

    def test_terabytes_are_counted(self, store: JobStore) -> None:
        for job_id in "ab":
            store.reserve(job_id, client="", size=2**42)
        assert store.used_bytes() == 2**43


class TestStart:
    def test_a_started_job_is_queued(self, store: JobStore) -> None:
        upload(store)
        record, is_new = store.start("a", OBJECTS, keep_files=UPLOAD, callback_url="https://example.org/")
        assert is_new
        assert (record.state, record.stage, record.progress, record.run) == ("processing", "queued", 0, 1)
        assert (record.attempts, record.deaths, record.callback_url) == (0, 0, "https://example.org/")

    def test_a_job_at_work_is_busy(self, store: JobStore) -> None:
        record = process(store)
        with pytest.raises(JobBusy):
            store.start("a", OBJECTS[:1], keep_files=UPLOAD)
        assert store.get("a") == record

    @pytest.mark.parametrize("state", ["ready", "error", "canceled"])
    def test_a_finished_job_starts_again_without_its_results(self, store: JobStore, state: str) -> None:
        run = process(store, callback_url="https://example.org/").run
        store.begin("a", run)
        store.requeue("a", run, died=True)
        store.found("a", run, (MaskQuality(0.5, 0.5),) * 2)
        store.advance("a", run, progress=50, add_file="mask_0.png")
        if state == "canceled":
            store.cancel("a", keep_files=UPLOAD)
        else:
            store.finish("a", run, error="It failed." if state == "error" else None)
        record, _ = store.start("a", OBJECTS[:1], keep_files=UPLOAD)
        assert (record.run, record.files, record.error, record.progress) == (2, UPLOAD, None, 0)
        assert (record.objects, record.qualities, record.callback_url) == (OBJECTS[:1], (), None)
        assert (record.attempts, record.deaths) == (0, 0)

    def test_no_more_jobs_wait_than_may(self, store: JobStore) -> None:
        process(store, "a")
        process(store, "b")
        end(store, "c", "ready")
        upload(store, "d")
        with pytest.raises(Overloaded) as refused:
            store.start("d", OBJECTS, keep_files=UPLOAD, max_waiting=2)
        assert refused.value.fields["retry_after"] > 0
        assert store.get("d").state == "uploaded"
        assert store.start("d", OBJECTS, keep_files=UPLOAD, max_waiting=3)[0].state == "processing"


class TestRun:
    def test_progress_never_falls(self, store: JobStore) -> None:
        run = process(store).run
        store.advance("a", run, progress=40)
        assert store.advance("a", run, progress=10).progress == 40
        assert store.requeue("a", run).progress == 40
        assert store.begin("a", run).progress == 40
        assert store.advance("a", run, stage="loading", progress=1).progress == 40
        assert store.finish("a", run, error="It failed.").progress == 40

    def test_the_stage_stays_unless_it_is_told(self, store: JobStore) -> None:
        run = process(store).run
        store.advance("a", run, stage="segmenting", progress=5)
        assert store.advance("a", run, progress=6).stage == "segmenting"

    def test_files_are_listed_in_order_of_appearance_and_once(self, store: JobStore) -> None:
        run = process(store).run
        for name in ("mask_1.png", "mask_0.png", "mask_1.png"):
            record = store.advance("a", run, progress=1, add_file=name)
        assert record.files == ("original.png", "mask_1.png", "mask_0.png")

    def test_attempts_and_deaths_are_counted(self, store: JobStore) -> None:
        run = process(store).run
        store.begin("a", run)
        store.advance("a", run, stage="loading", progress=1)
        died = store.requeue("a", run, died=True)
        assert (died.state, died.stage, died.attempts, died.deaths) == ("processing", "queued", 1, 1)
        store.begin("a", run)
        again = store.requeue("a", run)
        assert (again.attempts, again.deaths) == (2, 1)

    def test_a_job_without_an_error_is_ready_at_100(self, store: JobStore) -> None:
        record = end(store, "a", "ready")
        assert (record.state, record.stage, record.progress, record.error) == ("ready", "done", 100, None)

    def test_a_job_with_an_error_keeps_its_progress_and_files(self, store: JobStore) -> None:
        run = process(store).run
        store.advance("a", run, progress=40, add_file="mask_0.png")
        record = store.finish("a", run, error="It failed.")
        assert (record.state, record.progress, record.error) == ("error", 40, "It failed.")
        assert record.files == ("original.png", "mask_0.png")

    CHANGES = pytest.mark.parametrize(
        "change",
        [
            lambda store, run: store.begin("a", run),
            lambda store, run: store.requeue("a", run, died=True),
            lambda store, run: store.advance("a", run, stage="late", progress=99, add_file="late.png", size=9),
            lambda store, run: store.found("a", run, (MaskQuality(0.5, 0.5),)),
            lambda store, run: store.finish("a", run),
        ],
        ids=["begin", "requeue", "advance", "found", "finish"],
    )

    @CHANGES
    @pytest.mark.parametrize("state", ["uploaded", "ready", "error", "canceled"])
    def test_a_job_that_is_not_at_work_takes_no_change(
        self, store: JobStore, change: Callable[[JobStore, int], JobRecord], state: str
    ) -> None:
        record = upload(store) if state == "uploaded" else end(store, "a", state)
        events = store.events_after("a", 0)
        with pytest.raises(JobNotFound):
            change(store, record.run)
        assert (store.get("a"), store.events_after("a", 0)) == (record, events)

    @CHANGES
    @pytest.mark.parametrize("run", [0, 1, 3])
    def test_another_run_takes_no_change(
        self, store: JobStore, change: Callable[[JobStore, int], JobRecord], run: int
    ) -> None:
        end(store, "a", "ready")
        record, _ = store.start("a", OBJECTS, keep_files=UPLOAD)
        with pytest.raises(JobNotFound):
            change(store, run)
        assert store.get("a") == record

    @CHANGES
    def test_a_deleted_job_does_not_come_back(
        self, store: JobStore, change: Callable[[JobStore, int], JobRecord]
    ) -> None:
        run = process(store).run
        store.delete("a")
        with pytest.raises(JobNotFound):
            change(store, run)
        assert store.events_after("a", 0) == []


class TestCancel:
    def test_a_job_at_work_loses_what_its_run_made(self, store: JobStore) -> None:
        run = process(store).run
        store.advance("a", run, stage="segmenting", progress=40, add_file="mask_0.png", size=30)
        store.found("a", run, (MaskQuality(0.5, 0.5),))
        record = store.cancel("a", keep_files=UPLOAD)
        assert (record.state, record.stage, record.progress) == ("canceled", "canceled", 40)
        assert (record.files, record.qualities, record.bytes_stored) == (UPLOAD, (), 100)
        assert store.unfinished() == []

    def test_an_uploaded_job_can_be_canceled(self, store: JobStore) -> None:
        upload(store)
        assert store.cancel("a", keep_files=UPLOAD).state == "canceled"

    @pytest.mark.parametrize("state", ["ready", "error", "canceled"])
    def test_a_finished_job_cannot(self, store: JobStore, state: str) -> None:
        record = end(store, "a", state)
        with pytest.raises(JobFinished):
            store.cancel("a", keep_files=UPLOAD)
        assert store.get("a") == record


class TestEvents:
    def test_everything_that_happens_is_numbered_with_the_job_as_it_stood(self, store: JobStore) -> None:
        run = process(store).run
        store.begin("a", run)
        store.advance("a", run, stage="segmenting", progress=5)
        store.advance("a", run, stage="segmenting", progress=6)  # nothing new
        store.advance("a", run, progress=7, add_file="mask_0.png")
        store.advance("a", run, progress=8, add_file="mask_0.png")  # nothing new
        store.requeue("a", run)
        store.requeue("a", run)  # nothing new
        store.advance("a", run, stage="cutting", progress=9, add_file="cut_0.png")
        last = store.finish("a", run)
        events = store.events_after("a", 0)
        assert [(event.number, event.kind, event.name) for event in events] == [
            (1, "stage", "queued"),
            (2, "stage", "segmenting"),
            (3, "artifact", "mask_0.png"),
            (4, "stage", "queued"),
            (5, "stage", "cutting"),
            (6, "artifact", "cut_0.png"),
            (7, "end", "ready"),
        ]
        assert [event.record.progress for event in events] == [0, 5, 7, 8, 9, 9, 100]
        assert [event.record.stage for event in events[:4]] == ["queued", "segmenting", "segmenting", "queued"]
        assert "cut_0.png" not in events[4].record.files
        assert events[5].record.files == last.files
        assert events[-1].record == last == store.get("a")

    def test_only_later_ones_are_told(self, store: JobStore) -> None:
        end(store, "a", "error")
        assert [event.number for event in store.events_after("a", 1)] == [2]
        assert store.events_after("a", 2) == []

    def test_a_new_run_goes_on_counting(self, store: JobStore) -> None:
        end(store, "a", "ready")
        for _ in range(3):
            record, _ = store.start("a", OBJECTS, keep_files=UPLOAD)
            store.finish("a", record.run)
        numbers = [event.number for event in store.events_after("a", 0)]
        assert numbers[-2:] == [7, 8]
        assert numbers == list(range(numbers[0], 9))

    @pytest.mark.parametrize("state", ["ready", "error", "canceled"])
    def test_an_end_names_the_state(self, store: JobStore, state: str) -> None:
        end(store, "a", state)
        event = store.events_after("a", 1)[0]
        assert (event.kind, event.name, event.record.state) == ("end", state, state)

    def test_they_go_with_the_job(self, store: JobStore) -> None:
        process(store, "a")
        process(store, "b")
        store.delete("a")
        assert store.events_after("a", 0) == []
        assert len(store.events_after("b", 0)) == 1


class TestDelete:
    def test_a_deleted_job_is_unknown_and_its_files_are_remembered(self, store: JobStore) -> None:
        process(store, "a")
        upload(store, "b")
        store.delete("a")
        with pytest.raises(JobNotFound):
            store.get("a")
        with pytest.raises(JobNotFound):
            store.delete("a")
        assert store.doomed() == ["a"]
        assert store.unfinished() == []
        assert store.get("b").job_id == "b"
        store.buried("a")
        store.buried("a")
        assert store.doomed() == []


class TestExpiry:
    def test_a_job_lives_for_its_time_after_its_last_change(self, store: JobStore, clock: Clock) -> None:
        run = process(store).run
        clock.seconds += 3000
        store.finish("a", run)
        clock.seconds += TTL_S - 1
        assert store.get("a").expires_at == clock.seconds + 1
        clock.seconds += 1
        with pytest.raises(JobNotFound):
            store.get("a")
        with pytest.raises(JobNotFound):
            store.start("a", OBJECTS, keep_files=UPLOAD)

    def test_expired_jobs_are_forgotten_and_their_files_remembered(self, store: JobStore, clock: Clock) -> None:
        upload(store, "old")
        clock.seconds += 2000
        upload(store, "young")
        clock.seconds += 2000
        assert store.forget_expired() == ["old"]
        assert store.forget_expired() == []
        assert store.doomed() == ["old"]
        assert store.get("young").job_id == "young"

    def test_a_job_at_work_neither_expires_nor_vanishes(self, store: JobStore, clock: Clock) -> None:
        run = process(store).run
        clock.seconds += 100_000
        assert store.forget_expired() == []
        assert store.advance("a", run, progress=3).expires_at == clock.seconds + TTL_S


class TestUnfinished:
    def test_only_started_jobs_that_have_not_ended_are_unfinished(self, store: JobStore) -> None:
        store.reserve("reserved", client="", size=1)
        upload(store, "uploaded")
        for state in ("ready", "error", "canceled"):
            end(store, state, state)
        record = process(store, "processing")
        assert store.unfinished() == [record]

    def test_the_one_waiting_longest_comes_first_whatever_happened_to_it(self, store: JobStore, clock: Clock) -> None:
        for job_id in "bca":
            clock.seconds += 1
            process(store, job_id)
        clock.seconds += 1
        store.begin("b", 1)
        store.advance("b", 1, stage="loading", progress=2)
        store.requeue("b", 1)
        assert [record.job_id for record in store.unfinished()] == ["b", "c", "a"]


def test_readers_in_other_threads_see_whole_records_while_one_writes(store: JobStore) -> None:
    run = process(store).run
    seen: list[JobRecord] = []
    failures: list[BaseException] = []
    written = threading.Event()

    def read() -> None:
        try:
            while True:
                last = written.is_set()
                seen.append(store.get("a"))
                if last:
                    return
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for progress in range(1, 31):
        store.advance("a", run, progress=progress, add_file=f"mask_{progress}.png")
    written.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert all(len(record.files) == record.progress + 1 for record in seen)
    assert max(record.progress for record in seen) == 30
