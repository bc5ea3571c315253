"""The record of every job, in SQL. A change is on disk when its method returns."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipeline.errors import JobBusy, JobFinished, JobNotFound, Overloaded, StorageFull
from pipeline.jobs import drafts, keys, outbox
from pipeline.jobs.database import Database
from pipeline.jobs.drafts import Draft
from pipeline.jobs.lease import Lease, LeaseHeld
from pipeline.jobs.records import Delivery, IdempotencyKey, JobEvent, JobObject, JobRecord
from pipeline.jobs.tables import doomed, events, jobs, record_columns, to_record, to_row
from pipeline.jobs.tables import keys as key_rows
from pipeline.types import MaskQuality

__all__ = ["JobStore", "LeaseHeld"]

RESERVED_S = 600  # how long an upload may take to be written
BUSY_RETRY_AFTER_S = 30

_JOB_ID = re.compile(r"[A-Za-z0-9_.-]{1,32}")


class JobStore:
    """Jobs in a SQL database. Every method that changes something raises ``LeaseLost`` unless this store has the lease.

    Every method may raise ``StorageUnavailable`` (ask again), ``StorageFull`` or ``StorageError``.

    Args:
        url: SQLAlchemy URL, such as ``sqlite:////var/lib/clearcut/jobs.db`` or ``postgresql://user@host/clearcut``.
        ttl_s: Seconds a job lives after its last change.
        now: The clock, for tests.
    """

    def __init__(self, url: str | sa.URL, *, ttl_s: float, now: Callable[[], float] = time.time) -> None:
        self._database = Database(url)
        self._lease = Lease(now)
        self._ttl_s = ttl_s
        self._now = now

    @classmethod
    def in_folder(cls, folder: Path, *, ttl_s: float) -> JobStore:
        """The store in ``folder/jobs.db``; the folder is made if needed."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(sa.URL.create("sqlite", database=str(folder.resolve() / "jobs.db")), ttl_s=ttl_s)

    def close(self) -> None:
        """Gives the connections back. The lease stays: see ``release_lease``."""
        self._database.close()

    # The lease.

    def acquire_lease(self, owner: str, *, ttl_s: float) -> None:
        """Takes the lease for ``ttl_s`` seconds; ``owner`` says to people whose it is.

        Raises:
            LeaseHeld: Another store has one that did not run out.
        """
        with self._database.writing() as connection:
            token = self._lease.acquire(connection, owner, ttl_s)
        self._lease.adopt(token, ttl_s)

    def renew_lease(self) -> None:
        """Begins the lease's time anew. Raises ``LeaseLost`` if another store took it."""
        with self._database.writing() as connection:
            self._lease.renew(connection)

    def release_lease(self) -> None:
        """Gives the lease back, if this store has it."""
        with self._database.writing() as connection:
            self._lease.release(connection)
        self._lease.adopt(None)

    # Uploads.

    def reserve(
        self,
        job_id: str,
        *,
        client: str,
        size: int,
        key: IdempotencyKey | None = None,
        max_bytes: int | None = None,
        key_id: str | None = None,
    ) -> JobRecord:
        """A job in state ``reserved`` that counts ``size`` bytes and lives ten minutes, or the one of this key.

        Raises:
            KeyReused: The key came with another request before.
            JobBusy: The id is taken.
            StorageFull: All jobs together would take more than ``max_bytes``.
        """
        now = self._now()
        expires_at = now + RESERVED_S
        with self._write() as connection:
            earlier = keys.find(connection, key, now=now)
            if earlier:
                return self._reserve_again(connection, earlier, expires_at)
            if not _JOB_ID.fullmatch(job_id) or _is_taken(connection, job_id):
                raise JobBusy("This job id is taken.")
            used = _used_bytes(connection)
            if max_bytes is not None and used + size > max_bytes:
                raise StorageFull("The server has no room for more jobs. Try again later.")
            record = JobRecord(
                job_id=job_id,
                client=client,
                state="reserved",
                stage="reserved",
                progress=0,
                run=0,
                width=0,
                height=0,
                objects=(),
                qualities=(),
                files=(),
                error=None,
                attempts=0,
                deaths=0,
                callback_url=None,
                bytes_stored=size,
                created_at=now,
                updated_at=now,
                expires_at=expires_at,
                key_id=key_id,
            )
            connection.execute(sa.insert(jobs).values(**to_row(record), sizes="{}", queued_at=now, last_event=0))
            keys.keep(connection, key, job_id)
            return record

    def create(self, job_id: str, *, width: int, height: int, size: int, file: str = "original.png") -> JobRecord:
        """The reserved job, now ``uploaded`` with ``file`` of ``size`` bytes; one past that stays as it is.

        Raises:
            JobNotFound: It was not reserved, or too long ago.
        """
        with self._write() as connection:
            draft = self._draft(connection, job_id)
            if draft.record.state != "reserved":
                return self._get(connection, job_id)
            draft.change(state="uploaded", stage="uploaded", width=width, height=height, bytes_stored=0)
            draft.add_file(file, size)
            return draft.save()

    def get(self, job_id: str) -> JobRecord:
        """The job. Raises ``JobNotFound`` if it is unknown, expired, or its upload is still being written."""
        with self._database.reading() as connection:
            return self._get(connection, job_id)

    # A run.

    def start(
        self,
        job_id: str,
        objects: tuple[JobObject, ...],
        *,
        keep_files: tuple[str, ...],
        callback_url: str | None = None,
        key: IdempotencyKey | None = None,
        max_waiting: int | None = None,
    ) -> tuple[JobRecord, bool]:
        """The job queued for a new run on ``objects``, and True; or as it is, and False: ``key`` started it before.

        Of its files only ``keep_files`` stay listed.

        Raises:
            JobNotFound: It is unknown or expired.
            JobBusy: It is being worked on.
            KeyReused: The key came with another request before.
            Overloaded: As many as ``max_waiting`` jobs are not finished.
        """
        with self._write() as connection:
            record = self._get(connection, job_id)
            if keys.find(connection, key, now=self._now(), job_id=job_id):
                return record, False
            if record.state == "processing":
                raise JobBusy("This job is being processed. Wait until it is ready, then segment again.")
            if max_waiting is not None and _count_unfinished(connection) >= max_waiting:
                raise Overloaded("Too many jobs are waiting. Try again later.", retry_after=BUSY_RETRY_AFTER_S)
            draft = self._draft(connection, job_id)
            draft.keep_files(keep_files)
            draft.forget_events_before(record.run)  # whoever listens to the last run may still want its end
            draft.change(
                state="processing",
                stage="queued",
                progress=0,
                run=record.run + 1,
                objects=objects,
                qualities=(),
                error=None,
                attempts=0,
                deaths=0,
                callback_url=callback_url,
            )
            draft.enqueue()
            draft.tell("stage", "queued")
            keys.keep(connection, key, job_id)
            return draft.save(), True

    def begin(self, job_id: str, run: int) -> JobRecord:
        """The job with one attempt more. Raises ``JobNotFound`` unless this run is being worked on."""
        with self._running(job_id, run) as draft:
            draft.change(attempts=draft.record.attempts + 1)
        return draft.record

    def requeue(self, job_id: str, run: int, *, died: bool = False) -> JobRecord:
        """The job waiting again, its progress kept; ``died`` counts a model's death. Raises ``JobNotFound``."""
        with self._running(job_id, run) as draft:
            told = draft.record.stage == "queued"
            draft.change(stage="queued", deaths=draft.record.deaths + died)
            if not told:
                draft.tell("stage", "queued")
        return draft.record

    def advance(
        self,
        job_id: str,
        run: int,
        *,
        stage: str | None = None,
        progress: int,
        add_file: str | None = None,
        size: int = 0,
    ) -> JobRecord:
        """The job farther on, perhaps with a file of ``size`` bytes more; its progress never falls.

        Raises:
            JobNotFound: This run is not being worked on.
        """
        with self._running(job_id, run) as draft:
            before = draft.record
            draft.change(stage=stage or before.stage, progress=max(before.progress, progress))
            if draft.record.stage != before.stage:
                draft.tell("stage", draft.record.stage)
            if add_file is not None:
                draft.add_file(add_file, size)
                if add_file not in before.files:
                    draft.tell("artifact", add_file)
            else:
                draft.change(bytes_stored=before.bytes_stored + size)
        return draft.record

    def found(self, job_id: str, run: int, qualities: tuple[MaskQuality, ...]) -> JobRecord:
        """The job with what is known of its objects' masks. Raises ``JobNotFound``."""
        with self._running(job_id, run) as draft:
            draft.change(qualities=qualities)
        return draft.record

    def finish(self, job_id: str, run: int, *, error: str | None = None) -> JobRecord:
        """The job ``ready``, or in ``error`` with a text for its owner. Raises ``JobNotFound``."""
        with self._running(job_id, run) as draft:
            if error is None:
                draft.change(state="ready", stage="done", progress=100)
            else:
                draft.change(state="error", stage="failed", error=error)
            draft.end()
        return draft.record

    def cancel(self, job_id: str, *, keep_files: tuple[str, ...]) -> JobRecord:
        """The job ``canceled``; of its files only ``keep_files`` stay listed.

        Raises:
            JobNotFound: It is unknown or expired.
            JobFinished: Its work has ended already.
        """
        with self._write() as connection:
            if self._get(connection, job_id).state not in ("uploaded", "processing"):
                raise JobFinished("This job has ended already.")
            draft = self._draft(connection, job_id)
            draft.keep_files(keep_files)
            draft.change(state="canceled", stage="canceled", qualities=())
            draft.end()
            return draft.save()

    def unfinished(self) -> list[JobRecord]:
        """Jobs that were started and have not ended, the one waiting longest first."""
        query = sa.select(*record_columns).where(jobs.c.state == "processing")
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(jobs.c.queued_at, jobs.c.created_at, jobs.c.job_id))
            return [to_record(row) for row in rows]

    def events_after(self, job_id: str, number: int) -> list[JobEvent]:
        """What happened after event ``number``, in order, at least since its present run began; none if unknown."""
        if not _JOB_ID.fullmatch(job_id):
            return []
        with self._database.reading() as connection:
            return drafts.events_after(connection, job_id, number)

    # Endings.

    def delete(self, job_id: str) -> None:
        """Forgets the job, reserved ones too; its files are left to ``doomed``. Raises ``JobNotFound``."""
        with self._write() as connection:
            self._row(connection, job_id)
            _doom(connection, jobs.c.job_id == job_id)

    def forget_expired(self) -> list[str]:
        """Forgets every job whose time is over, unless it is being worked on; their ids."""
        with self._write() as connection:
            return _doom(connection, sa.and_(jobs.c.expires_at <= self._now(), jobs.c.state != "processing"))

    def doomed(self) -> list[str]:
        """Ids of forgotten jobs whose files are still to be deleted."""
        with self._database.reading() as connection:
            return list(connection.scalars(sa.select(doomed.c.job_id).order_by(doomed.c.job_id)))

    def buried(self, job_id: str) -> None:
        """The files of a forgotten job are deleted."""
        with self._write() as connection:
            connection.execute(sa.delete(doomed).where(doomed.c.job_id == job_id))

    def used_bytes(self) -> int:
        """What the files of all jobs take together, forgotten ones too until they are deleted."""
        with self._database.reading() as connection:
            return _used_bytes(connection)

    # The outbox of callbacks.

    def due_deliveries(self, limit: int = 16) -> list[Delivery]:
        """Callbacks to be sent now, at most ``limit``."""
        with self._database.reading() as connection:
            return outbox.due(connection, now=self._now(), limit=limit)

    def next_delivery_at(self) -> float | None:
        """When the next callback is to be sent, seconds since the epoch; None if there is none."""
        with self._database.reading() as connection:
            return outbox.next_at(connection)

    def delivered(self, delivery_id: str) -> None:
        """The callback arrived."""
        with self._write() as connection:
            outbox.remove(connection, delivery_id)

    def postpone_delivery(self, delivery_id: str, *, until: float | None) -> None:
        """The callback did not arrive: it is tried again at ``until``, or given up with None."""
        with self._write() as connection:
            if until is None:
                outbox.remove(connection, delivery_id)
            else:
                outbox.postpone(connection, delivery_id, until=until)

    # Below: within a transaction.

    @contextlib.contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with self._database.writing() as connection:
            self._lease.check(connection)
            yield connection

    @contextlib.contextmanager
    def _running(self, job_id: str, run: int) -> Iterator[Draft]:
        """The job at work on ``run``, saved when the block ends well."""
        with self._write() as connection:
            draft = self._draft(connection, job_id)
            if (draft.record.state, draft.record.run) != ("processing", run):
                raise JobNotFound("Job not found")
            yield draft
            draft.save()

    def _draft(self, connection: sa.Connection, job_id: str) -> Draft:
        return Draft(connection, self._row(connection, job_id), now=self._now(), ttl_s=self._ttl_s)

    def _get(self, connection: sa.Connection, job_id: str) -> JobRecord:
        record = to_record(self._row(connection, job_id))
        if record.state == "reserved":
            raise JobNotFound("Job not found")
        return record

    def _row(self, connection: sa.Connection, job_id: str) -> sa.Row[Any]:
        """All columns of a living job."""
        if not _JOB_ID.fullmatch(job_id):  # drivers fail on some strings that no job is called by
            raise JobNotFound("Job not found")
        row = connection.execute(sa.select(jobs).where(jobs.c.job_id == job_id)).first()
        if row is None or (row.expires_at <= self._now() and row.state != "processing"):
            raise JobNotFound("Job not found")
        return row

    def _reserve_again(self, connection: sa.Connection, job_id: str, expires_at: float) -> JobRecord:
        still_reserved = sa.and_(jobs.c.job_id == job_id, jobs.c.state == "reserved")
        connection.execute(sa.update(jobs).where(still_reserved).values(expires_at=expires_at))
        return to_record(self._row(connection, job_id))


def _is_taken(connection: sa.Connection, job_id: str) -> bool:
    queries = (sa.select(table.c.job_id).where(table.c.job_id == job_id) for table in (jobs, doomed))
    return any(connection.execute(query).first() is not None for query in queries)


def _count_unfinished(connection: sa.Connection) -> int:
    return connection.execute(sa.select(sa.func.count()).where(jobs.c.state == "processing")).scalar_one()


def _used_bytes(connection: sa.Connection) -> int:
    sums = (connection.scalar(sa.select(sa.func.sum(table.c.bytes_stored))) for table in (jobs, doomed))
    return sum(int(found or 0) for found in sums)


def _doom(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[str]:
    """Removes the jobs with all that belongs to them except their callbacks; their ids."""
    ids = sa.select(jobs.c.job_id).where(condition)
    found = list(connection.scalars(ids.order_by(jobs.c.expires_at, jobs.c.job_id)))
    chosen = sa.select(jobs.c.job_id, jobs.c.bytes_stored).where(condition)
    connection.execute(sa.insert(doomed).from_select(["job_id", "bytes_stored"], chosen))
    for table in (events, key_rows):
        connection.execute(sa.delete(table).where(table.c.job_id.in_(ids)))
    connection.execute(sa.delete(jobs).where(condition))
    return found
