"""The record of every job, in SQL. A change is on disk when its method returns.

SQLite runs in WAL mode with ``synchronous=FULL``: a power cut loses nothing that was answered.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy import event

from pipeline.errors import JobBusy, JobNotFound, StorageFull
from pipeline.types import MaskQuality

State: TypeAlias = Literal["uploaded", "processing", "ready", "error", "canceled"]

_JOB_ID = re.compile(r"[A-Za-z0-9_.-]{1,32}")

_metadata = sa.MetaData()
_jobs = sa.Table(
    "jobs",
    _metadata,
    sa.Column("job_id", sa.String(32), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("stage", sa.String(32), nullable=False),
    sa.Column("progress", sa.Integer, nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("objects", sa.Text, nullable=False),  # JSON: the prompts as they were accepted
    sa.Column("qualities", sa.Text, nullable=False),  # JSON: coverage and confidence of each object found
    sa.Column("files", sa.Text, nullable=False),  # JSON: names, in order of appearance
    sa.Column("error", sa.Text, nullable=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False, index=True),
)


@dataclass(frozen=True)
class JobObject:
    """One object of a job: points in pixels of ``original.png`` with their labels (1 on it, 0 not on it)."""

    points: tuple[tuple[float, float], ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class JobRecord:
    """A job as it stands on disk. Times are seconds since the epoch, UTC."""

    job_id: str
    state: State
    stage: str
    progress: int
    width: int
    height: int
    objects: tuple[JobObject, ...]
    qualities: tuple[MaskQuality, ...]
    files: tuple[str, ...]
    error: str | None
    created_at: float
    updated_at: float
    expires_at: float


class JobStore:
    """Jobs in a SQL database.

    Args:
        url: SQLAlchemy URL, such as ``sqlite:////var/lib/clearcut/jobs.db``.
        ttl_s: Seconds a job lives after its last change.
        now: The clock, for tests.
    """

    def __init__(self, url: str | sa.URL, *, ttl_s: float, now: Callable[[], float] = time.time) -> None:
        self._engine = sa.create_engine(url)
        self._ttl_s = ttl_s
        self._now = now
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _make_durable)
            event.listen(self._engine, "handle_error", _name_full_disk)
        _metadata.create_all(self._engine)

    @classmethod
    def in_folder(cls, folder: Path, *, ttl_s: float) -> JobStore:
        """The store in ``folder/jobs.db``; the folder is made if needed."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(sa.URL.create("sqlite", database=str(folder.resolve() / "jobs.db")), ttl_s=ttl_s)

    def close(self) -> None:
        """Gives the connections back."""
        self._engine.dispose()

    def create(self, job_id: str, *, width: int, height: int, files: tuple[str, ...]) -> JobRecord:
        """A new job in state ``uploaded``."""
        now = self._now()
        record = JobRecord(
            job_id, "uploaded", "uploaded", 0, width, height, (), (), files, None, now, now, now + self._ttl_s
        )
        with self._engine.begin() as connection:
            connection.execute(sa.insert(_jobs).values(**_to_row(record)))
        return record

    def get(self, job_id: str) -> JobRecord:
        """The job. Raises ``JobNotFound`` if it is unknown or expired."""
        with self._engine.connect() as connection:
            return self._get(connection, job_id)

    def start(self, job_id: str, objects: tuple[JobObject, ...], *, keep_files: tuple[str, ...]) -> JobRecord:
        """The job queued for work on ``objects``; of its files only ``keep_files`` stay listed.

        Raises:
            JobNotFound: It is unknown or expired.
            JobBusy: It is being worked on.
        """
        with self._engine.begin() as connection:
            record = self._get(connection, job_id)
            if record.state == "processing":
                raise JobBusy("This job is being processed. Wait until it is ready, then segment again.")
            return self._put(
                connection,
                replace(
                    record,
                    state="processing",
                    stage="queued",
                    progress=0,
                    objects=objects,
                    qualities=(),
                    files=tuple(name for name in record.files if name in keep_files),
                    error=None,
                ),
            )

    def advance(
        self, job_id: str, *, stage: str | None = None, progress: int, add_file: str | None = None
    ) -> JobRecord:
        """The job farther on; its progress never falls."""
        with self._engine.begin() as connection:
            record = self._get(connection, job_id)
            files = record.files
            if add_file is not None and add_file not in files:
                files = (*files, add_file)
            return self._put(
                connection,
                replace(record, stage=stage or record.stage, progress=max(record.progress, progress), files=files),
            )

    def found(self, job_id: str, qualities: tuple[MaskQuality, ...]) -> JobRecord:
        """The job with what is known of its objects' masks."""
        with self._engine.begin() as connection:
            return self._put(connection, replace(self._get(connection, job_id), qualities=qualities))

    def finish(self, job_id: str, *, error: str | None = None) -> JobRecord:
        """The job ``ready``, or in ``error`` with a text for its owner."""
        with self._engine.begin() as connection:
            record = self._get(connection, job_id)
            if error is None:
                return self._put(connection, replace(record, state="ready", stage="done", progress=100))
            return self._put(connection, replace(record, state="error", stage="failed", error=error))

    def delete(self, job_id: str) -> None:
        """Forgets the job. Raises ``JobNotFound`` if there is none."""
        with self._engine.begin() as connection:
            self._get(connection, job_id)
            connection.execute(sa.delete(_jobs).where(_jobs.c.job_id == job_id))

    def forget_expired(self) -> list[str]:
        """Forgets every job whose time is over, unless it is being worked on; their ids."""
        with self._engine.begin() as connection:
            over = sa.and_(_jobs.c.expires_at <= self._now(), _jobs.c.state != "processing")
            ids = list(connection.scalars(sa.select(_jobs.c.job_id).where(over)))
            connection.execute(sa.delete(_jobs).where(_jobs.c.job_id.in_(ids)))
            return ids

    def unfinished(self) -> list[JobRecord]:
        """Jobs that were accepted and not finished, oldest first."""
        query = sa.select(_jobs).where(_jobs.c.state == "processing").order_by(_jobs.c.updated_at)
        with self._engine.connect() as connection:
            return [_to_record(row) for row in connection.execute(query)]

    def _get(self, connection: sa.Connection, job_id: str) -> JobRecord:
        if not _JOB_ID.fullmatch(job_id):  # drivers fail on some strings that no job is called by
            raise JobNotFound("Job not found")
        row = connection.execute(sa.select(_jobs).where(_jobs.c.job_id == job_id)).first()
        if row is None:
            raise JobNotFound("Job not found")
        record = _to_record(row)
        if record.expires_at <= self._now() and record.state != "processing":
            raise JobNotFound("Job not found")
        return record

    def _put(self, connection: sa.Connection, record: JobRecord) -> JobRecord:
        now = self._now()
        record = replace(record, updated_at=now, expires_at=now + self._ttl_s)
        connection.execute(sa.update(_jobs).where(_jobs.c.job_id == record.job_id).values(**_to_row(record)))
        return record


def _make_durable(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()


def _name_full_disk(context: sa.ExceptionContext) -> None:
    if getattr(context.original_exception, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        raise StorageFull("The server has no room for more jobs. Try again later.") from context.original_exception


def _to_row(record: JobRecord) -> dict[str, object]:
    row = dict(record.__dict__)
    row["objects"] = json.dumps([[item.points, item.labels] for item in record.objects])
    row["qualities"] = json.dumps([[item.coverage, item.confidence] for item in record.qualities])
    row["files"] = json.dumps(record.files)
    return row


def _to_record(row: sa.Row[Any]) -> JobRecord:
    values = dict(row._mapping)
    values["objects"] = tuple(
        JobObject(tuple((x, y) for x, y in points), tuple(labels)) for points, labels in json.loads(values["objects"])
    )
    values["qualities"] = tuple(MaskQuality(*pair) for pair in json.loads(values["qualities"]))
    values["files"] = tuple(json.loads(values["files"]))
    return JobRecord(**values)
