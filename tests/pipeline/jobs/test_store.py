"""The record of jobs: what is written stays written, in SQL that survives a power cut."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import JobBusy, JobNotFound, StorageFull
from pipeline.jobs.store import JobObject, JobRecord, JobStore

OBJECTS = (JobObject(((60.5, 45.0), (1.25, 2.0)), (1, 0)), JobObject(((7.0, 8.0),), (1,)))
UPLOAD = ("original.png",)


class Clock:
    """Time moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.25

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[JobStore]:
    opened = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}", ttl_s=3600, now=clock)
    yield opened
    opened.close()


def create(store: JobStore, job_id: str = "a") -> JobRecord:
    return store.create(job_id, width=7, height=5, files=UPLOAD)


def test_a_new_job_is_uploaded(store: JobStore, clock: Clock) -> None:
    record = create(store)
    assert (record.state, record.progress, record.objects, record.error) == ("uploaded", 0, (), None)
    assert (record.width, record.height, record.files) == (7, 5, UPLOAD)
    assert (record.created_at, record.updated_at, record.expires_at) == (
        clock.seconds,
        clock.seconds,
        clock.seconds + 3600,
    )


def test_a_job_reads_back_as_it_was_written(store: JobStore) -> None:
    create(store)
    started = store.start("a", OBJECTS, keep_files=UPLOAD)
    assert started.objects == OBJECTS
    assert store.get("a") == started


def test_a_job_outlives_its_store(tmp_path: Path) -> None:
    first = JobStore.in_folder(tmp_path, ttl_s=3600)
    create(first)
    written = first.start("a", OBJECTS, keep_files=UPLOAD)
    first.close()
    second = JobStore.in_folder(tmp_path, ttl_s=3600)
    assert second.get("a") == written
    second.close()


def test_another_process_sees_a_change_at_once(store: JobStore, tmp_path: Path) -> None:
    create(store)
    other = sqlite3.connect(tmp_path / "jobs.db")
    store.start("a", OBJECTS, keep_files=UPLOAD)
    (row,) = other.execute("SELECT state FROM jobs")
    other.close()
    assert row == ("processing",)


def test_a_change_survives_a_process_that_never_closed(tmp_path: Path) -> None:
    """As after ``kill -9``: another connection reads the file and its log as they lie there."""
    first = JobStore.in_folder(tmp_path, ttl_s=3600)
    create(first)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("jobs.db", "jobs.db-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    second = JobStore.in_folder(copy, ttl_s=3600)
    assert second.get("a").state == "uploaded"
    second.close()
    first.close()


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("busy_timeout", 10_000)], ids=str
)
def test_every_connection_is_durable(store: JobStore, pragma: str, value: object) -> None:
    with store._engine.connect() as first, store._engine.connect() as second:
        for connection in (first, second):
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value


@pytest.mark.parametrize("name", ["with space", "what?", "50%25", "a#b", "ü"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    store = JobStore.in_folder(tmp_path / name, ttl_s=3600)
    create(store)
    store.close()
    assert (tmp_path / name / "jobs.db").is_file()


def test_an_unknown_job_is_not_found(store: JobStore) -> None:
    with pytest.raises(JobNotFound, match=r"^Job not found$"):
        store.get("a")


@pytest.mark.parametrize("job_id", ["\ud800", "a\0b", "", "x" * 5000, "' OR 1=1 --", "%"], ids=ascii)
def test_a_strange_id_is_not_found(store: JobStore, job_id: str) -> None:
    create(store)
    with pytest.raises(JobNotFound):
        store.get(job_id)


def test_a_full_disk_is_told_and_leaves_the_records_as_they_were(store: JobStore) -> None:
    before = create(store)
    with store._engine.connect() as connection:  # the pool's one connection keeps the limit
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StorageFull):
        store.start("a", (JobObject(((1.5, 2.5),) * 5000, (1,) * 5000),), keep_files=UPLOAD)
    assert store.get("a") == before


class TestStart:
    def test_a_started_job_is_queued(self, store: JobStore) -> None:
        create(store)
        record = store.start("a", OBJECTS, keep_files=UPLOAD)
        assert (record.state, record.stage, record.progress) == ("processing", "queued", 0)

    def test_a_job_at_work_is_busy(self, store: JobStore) -> None:
        create(store)
        store.start("a", OBJECTS, keep_files=UPLOAD)
        with pytest.raises(JobBusy):
            store.start("a", OBJECTS[:1], keep_files=UPLOAD)
        assert store.get("a").objects == OBJECTS

    @pytest.mark.parametrize("error", [None, "It failed."])
    def test_a_finished_job_starts_again_without_its_results(self, store: JobStore, error: str | None) -> None:
        create(store)
        store.start("a", OBJECTS, keep_files=UPLOAD)
        store.advance("a", progress=50, add_file="mask_0.png")
        store.finish("a", error=error)
        record = store.start("a", OBJECTS[:1], keep_files=UPLOAD)
        assert (record.files, record.error, record.progress) == (UPLOAD, None, 0)
        assert record.objects == OBJECTS[:1]

    def test_an_unknown_job_does_not_start(self, store: JobStore) -> None:
        with pytest.raises(JobNotFound):
            store.start("a", OBJECTS, keep_files=UPLOAD)


class TestAdvance:
    def test_progress_never_falls(self, store: JobStore) -> None:
        create(store)
        store.start("a", OBJECTS, keep_files=UPLOAD)
        store.advance("a", progress=40)
        assert store.advance("a", progress=10).progress == 40

    def test_the_stage_stays_unless_it_is_told(self, store: JobStore) -> None:
        create(store)
        store.advance("a", stage="segmenting", progress=5)
        assert store.advance("a", progress=6).stage == "segmenting"

    def test_files_are_listed_in_order_of_appearance_and_once(self, store: JobStore) -> None:
        create(store)
        for name in ("mask_1.png", "mask_0.png", "mask_1.png"):
            record = store.advance("a", progress=1, add_file=name)
        assert record.files == ("original.png", "mask_1.png", "mask_0.png")

    def test_a_deleted_job_does_not_come_back(self, store: JobStore) -> None:
        create(store)
        store.delete("a")
        with pytest.raises(JobNotFound):
            store.advance("a", progress=1)


class TestFinish:
    def test_a_job_without_an_error_is_ready_at_100(self, store: JobStore) -> None:
        create(store)
        store.start("a", OBJECTS, keep_files=UPLOAD)
        record = store.finish("a")
        assert (record.state, record.stage, record.progress, record.error) == ("ready", "done", 100, None)

    def test_a_job_with_an_error_keeps_its_progress_and_files(self, store: JobStore) -> None:
        create(store)
        store.start("a", OBJECTS, keep_files=UPLOAD)
        store.advance("a", progress=40, add_file="mask_0.png")
        record = store.finish("a", error="It failed.")
        assert (record.state, record.progress, record.error) == ("error", 40, "It failed.")
        assert record.files == ("original.png", "mask_0.png")


class TestDelete:
    def test_a_deleted_job_is_unknown(self, store: JobStore) -> None:
        create(store)
        store.delete("a")
        with pytest.raises(JobNotFound):
            store.get("a")

    def test_the_second_deletion_finds_nothing(self, store: JobStore) -> None:
        create(store)
        store.delete("a")
        with pytest.raises(JobNotFound):
            store.delete("a")

    def test_other_jobs_stay(self, store: JobStore) -> None:
        create(store, "a")
        create(store, "b")
        store.delete("a")
        assert store.get("b").job_id == "b"


class TestExpiry:
    def test_a_job_lives_for_its_time_after_its_last_change(self, store: JobStore, clock: Clock) -> None:
        create(store)
        clock.seconds += 3000
        store.advance("a", progress=1)
        clock.seconds += 3599
        assert store.get("a").expires_at == pytest.approx(clock.seconds + 1)

    def test_a_job_whose_time_is_over_is_unknown(self, store: JobStore, clock: Clock) -> None:
        create(store)
        clock.seconds += 3600
        with pytest.raises(JobNotFound):
            store.get("a")

    def test_expired_jobs_are_named_and_forgotten(self, store: JobStore, clock: Clock) -> None:
        create(store, "old")
        clock.seconds += 2000
        create(store, "young")
        clock.seconds += 2000
        assert store.forget_expired() == ["old"]
        assert store.forget_expired() == []
        assert store.get("young").job_id == "young"

    def test_a_job_at_work_neither_expires_nor_vanishes(self, store: JobStore, clock: Clock) -> None:
        create(store)
        store.start("a", OBJECTS, keep_files=UPLOAD)
        clock.seconds += 100_000
        assert store.forget_expired() == []
        assert store.get("a").state == "processing"


class TestUnfinished:
    def test_only_accepted_and_not_finished_jobs_are_unfinished(self, store: JobStore) -> None:
        for job_id in ("uploaded", "ready", "error", "processing"):
            create(store, job_id)
        for job_id in ("ready", "error", "processing"):
            store.start(job_id, OBJECTS, keep_files=UPLOAD)
        store.finish("ready")
        store.finish("error", error="It failed.")
        assert [record.job_id for record in store.unfinished()] == ["processing"]

    def test_the_oldest_comes_first(self, store: JobStore, clock: Clock) -> None:
        for job_id in ("b", "c", "a"):
            clock.seconds += 1
            create(store, job_id)
            store.start(job_id, OBJECTS, keep_files=UPLOAD)
        assert [record.job_id for record in store.unfinished()] == ["b", "c", "a"]


def test_readers_in_other_threads_see_whole_records_while_one_writes(store: JobStore) -> None:
    create(store)
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
        store.advance("a", progress=progress, add_file=f"mask_{progress}.png")
    written.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert all(len(record.files) == record.progress + 1 for record in seen)
    assert max(record.progress for record in seen) == 30
