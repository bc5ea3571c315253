"""Jobs in the states that tests of the store begin with."""

from __future__ import annotations

import sqlalchemy as sa

from pipeline.jobs.records import JobObject, JobRecord
from pipeline.jobs.store import JobStore

OBJECTS = (JobObject(((60.5, 45.0), (1.25, 2.0)), (1, 0)), JobObject(((7.0, 8.0),), (1,)))
UPLOAD = ("original.png",)


def upload(store: JobStore, job_id: str = "a", *, size: int = 100) -> JobRecord:
    """A job that is uploaded, 7 pixels wide and 5 high."""
    store.reserve(job_id, client="somebody", size=size)
    return store.create(job_id, width=7, height=5, size=size)


def process(store: JobStore, job_id: str = "a", *, callback_url: str | None = None) -> JobRecord:
    """A job at work on its first run."""
    upload(store, job_id)
    record, _ = store.start(job_id, OBJECTS, keep_files=UPLOAD, callback_url=callback_url)
    return record


def end(store: JobStore, job_id: str, state: str) -> JobRecord:
    """A job that ended so after its first run."""
    run = process(store, job_id).run
    if state == "canceled":
        return store.cancel(job_id, keep_files=UPLOAD)
    return store.finish(job_id, run, error="It failed." if state == "error" else None)


def let_run_out(store: JobStore) -> None:
    """Whoever holds the lease slept for longer than it lasts."""
    with store._database.writing() as connection:
        connection.execute(sa.text("UPDATE lease SET expires_at = 1"))
