"""What the store does when its database or its process fails."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.errors import LeaseLost, StorageError, StorageFull, StorageUnavailable
from pipeline.jobs.records import JobObject
from pipeline.jobs.store import JobStore, LeaseHeld
from tests.pipeline.jobs.conftest import TTL_S
from tests.pipeline.jobs.jobs import OBJECTS, UPLOAD, let_run_out, process, upload
from tests.servers.postgres import PostgresServer

Open = Callable[[], JobStore]
ROOT = Path(__file__).parents[3]

WRITER = """
import itertools, sys
from pipeline.jobs.records import JobObject
from pipeline.jobs.store import JobStore
store = JobStore(sys.argv[1], ttl_s=3600)
store.acquire_lease("the writer", ttl_s=3600)
objects = (JobObject(((1.5, 2.5),), (1,)),)
for number in itertools.count():
    job_id = f"job{number}"
    store.reserve(job_id, client="", size=10)
    store.create(job_id, width=7, height=5, size=10)
    store.start(job_id, objects, keep_files=(), callback_url="https://example.org/")
    store.advance(job_id, 1, stage="segmenting", progress=50, add_file="mask_0.png", size=5)
    print(f"advanced {number}", flush=True)
    store.finish(job_id, 1)
    print(f"finished {number}", flush=True)
"""


@pytest.mark.parametrize("lines", [1, 8, 31])
def test_what_was_answered_survives_a_killed_writer(url: str, open_store: Open, tmp_path: Path, lines: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, url],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(lines)]
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.readlines()
    assert writer.returncode == -signal.SIGKILL
    store = open_store()
    with pytest.raises(LeaseHeld):
        store.acquire_lease("the next", ttl_s=60)
    let_run_out(store)
    store.acquire_lease("the next", ttl_s=60)
    with store._database.reading() as connection:
        jobs = {row.job_id: row for row in connection.execute(sa.text("SELECT * FROM jobs"))}
        told = set(connection.scalars(sa.text("SELECT job_id FROM deliveries")))
    for verb, number in (line.split() for line in said if line.endswith("\n")):
        job = jobs[f"job{number}"]
        assert "mask_0.png" in job.files
        assert verb == "advanced" or job.state == "ready"
    assert told == {job_id for job_id, job in jobs.items() if job.state == "ready"}  # an end and its callback: both
    for job_id, job in jobs.items():
        events = store.events_after(job_id, 0)
        assert [event.number for event in events] == list(range(1, job.last_event + 1))
        assert any(event.kind == "artifact" for event in events) == ("mask_0.png" in job.files)
        assert any(event.kind == "end" for event in events) == (job.state == "ready")
    for record in store.unfinished():
        assert store.finish(record.job_id, 1).state == "ready"


def test_a_change_that_fails_halfway_is_not_there(store: JobStore) -> None:
    record = process(store, callback_url="https://example.org/")
    with store._database.writing() as connection:
        connection.execute(sa.text("ALTER TABLE deliveries RENAME TO hidden"))  # the outbox comes last
    with pytest.raises(StorageError):
        store.finish("a", 1)
    assert store.get("a") == record
    assert len(store.events_after("a", 0)) == 1


class TestSQLite:
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'jobs.db'}"

    @pytest.mark.parametrize(
        ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("busy_timeout", 10_000)], ids=str
    )
    def test_every_connection_is_durable(self, store: JobStore, pragma: str, value: object) -> None:
        with store._database.reading() as first, store._database.reading() as second:
            for connection in (first, second):
                assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value

    def test_a_change_is_in_the_files_when_it_is_answered(self, store: JobStore, tmp_path: Path) -> None:
        record = process(store)
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in ("jobs.db", "jobs.db-wal"):
            (copy / name).write_bytes((tmp_path / name).read_bytes())
        second = JobStore(f"sqlite:///{copy / 'jobs.db'}", ttl_s=TTL_S, now=lambda: record.updated_at)
        assert second.get("a") == record
        second.close()

    def test_a_full_disk_is_told_and_leaves_the_records_as_they_were(self, store: JobStore) -> None:
        before = upload(store)
        with store._database.reading() as connection:  # the pool's one connection keeps the limit
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        with pytest.raises(StorageFull):
            store.start("a", (JobObject(((1.5, 2.5),) * 5000, (1,) * 5000),), keep_files=UPLOAD)
        assert store.get("a") == before

    def test_a_database_that_another_keeps_locked_is_unavailable(self, store: JobStore, tmp_path: Path) -> None:
        upload(store)
        with store._database.reading() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout=50")
        other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable) as refused:
            store.start("a", OBJECTS, keep_files=UPLOAD)
        assert refused.value.fields == {"retry_after": 5}
        assert store.get("a").state == "uploaded"
        other.execute("ROLLBACK")
        other.close()
        assert store.start("a", OBJECTS, keep_files=UPLOAD)[0].state == "processing"

    def test_a_transaction_that_may_write_begins_as_a_writer(self, store: JobStore, tmp_path: Path) -> None:
        """One that had read before could not write after another's change, however long it waited."""
        other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None, timeout=0)
        with store._database.writing(), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")
        other.close()

    def test_a_file_that_is_no_database_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "jobs.db").write_bytes(b"not a database" * 100)
        with pytest.raises(StorageError):
            JobStore.in_folder(tmp_path, ttl_s=TTL_S)

    def test_a_folder_that_is_not_there_is_unavailable(self, tmp_path: Path) -> None:
        with pytest.raises(StorageUnavailable):
            JobStore(f"sqlite:///{tmp_path}/missing/jobs.db", ttl_s=TTL_S)


class TestPostgreSQL:
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
    def test_every_spelling_of_its_url_is_taken(self, url: str, scheme: str) -> None:
        store = JobStore(url.replace("postgresql", scheme), ttl_s=TTL_S)
        assert store.unfinished() == []
        store.close()

    def test_a_restarted_server_is_found_again(self, store: JobStore, postgres_server: PostgresServer) -> None:
        record = process(store)
        postgres_server.stop()
        try:
            for _ in range(2):
                with pytest.raises(StorageUnavailable) as unavailable:
                    store.get("a")
                assert unavailable.value.fields == {"retry_after": 5}
                with pytest.raises(StorageUnavailable):
                    store.advance("a", 1, progress=50)
                with pytest.raises(StorageUnavailable):
                    store.renew_lease()
        finally:
            postgres_server.start()
        assert store.get("a") == record
        store.renew_lease()
        assert store.advance("a", 1, progress=60).progress == 60

    def test_a_server_restarted_between_two_calls_is_not_noticed(
        self, store: JobStore, postgres_server: PostgresServer
    ) -> None:
        upload(store)
        postgres_server.stop()
        postgres_server.start()
        assert store.start("a", OBJECTS, keep_files=UPLOAD)[0].state == "processing"

    def test_a_connection_cut_in_mid_change_leaves_nothing_of_it(self, store: JobStore, open_store: Open) -> None:
        upload(store)
        killer = open_store()

        def change_and_be_cut() -> None:
            with store._write() as connection:
                connection.execute(sa.text("UPDATE jobs SET state = 'canceled'"))
                process_id = connection.scalar(sa.text("SELECT pg_backend_pid()"))
                with killer._database.writing() as other:
                    other.execute(sa.text("SELECT pg_terminate_backend(:id, 5000)"), {"id": process_id})
                connection.execute(sa.text("SELECT 1"))

        with pytest.raises(StorageUnavailable):
            change_and_be_cut()
        assert store.get("a").state == "uploaded"
        assert store.start("a", OBJECTS, keep_files=UPLOAD)[0].state == "processing"

    def test_a_full_disk_is_told(self, store: JobStore) -> None:
        before = upload(store)
        with store._database.writing() as connection:
            for statement in (
                "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = 'disk_full'; END $$",
                "CREATE TRIGGER full_disk BEFORE UPDATE ON jobs EXECUTE FUNCTION fail()",
            ):
                connection.execute(sa.text(statement))
        with pytest.raises(StorageFull):
            store.start("a", OBJECTS, keep_files=UPLOAD)
        assert store.get("a") == before

    def test_a_row_that_another_keeps_locked_makes_it_unavailable(self, store: JobStore, open_store: Open) -> None:
        other = open_store()
        with other._database.writing() as connection:
            connection.execute(sa.text("SELECT * FROM lease FOR UPDATE"))
            with store._database.reading() as held:  # the pool's one connection keeps the setting
                held.execute(sa.text("SET lock_timeout = '50ms'"))
                held.commit()
            with pytest.raises(StorageUnavailable):
                upload(store)
        assert upload(store).state == "uploaded"

    def test_waits_are_bounded(self, store: JobStore) -> None:
        with store._database.reading() as connection:
            names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
            assert [connection.scalar(sa.text(f"SHOW {name}")) for name in names] == ["10s", "30s", "30s"]

    def test_no_server_is_told_without_the_password(self, unused_port: int) -> None:
        with pytest.raises(StorageUnavailable) as unavailable:
            JobStore(f"postgresql://clearcut:pssst@127.0.0.1:{unused_port}/jobs", ttl_s=TTL_S)
        error: BaseException | None = unavailable.value
        while error is not None:
            assert "pssst" not in f"{error!r} {error}"
            error = error.__cause__

    @pytest.fixture
    def unused_port(self) -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
            return port


@pytest.mark.parametrize("url", ["mysql://root:pssst@localhost/jobs", "jobs.db", "nosuch://root:pssst@x", ""])
def test_another_database_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(StorageError, match="DATABASE_URL") as refused:
        JobStore(url, ttl_s=TTL_S)
    assert "pssst" not in str(refused.value)


def test_a_lost_lease_is_told_before_anything_else(store: JobStore, open_store: Open) -> None:
    """Whatever else is wrong with a late write, its sender must learn that it is not the owner."""
    let_run_out(store)
    open_store().acquire_lease("the next", ttl_s=60)
    with pytest.raises(LeaseLost):
        store.advance("unknown", 7, progress=1)
