"""Whose a job is stays with it."""

from __future__ import annotations

import json

from pipeline.jobs import tables
from pipeline.jobs.store import JobStore
from tests.pipeline.jobs.jobs import OBJECTS, UPLOAD, upload


def test_a_job_made_with_a_key_stays_its_owners(store: JobStore) -> None:
    reserved = store.reserve("a", client="key:owner", size=1, key_id="owner")
    store.create("a", width=7, height=5, size=1)
    run, _ = store.start("a", OBJECTS, keep_files=UPLOAD, callback_url="https://example.org")
    store.finish("a", run.run)

    assert reserved.key_id == store.get("a").key_id == "owner"
    assert {event.record.key_id for event in store.events_after("a", 0)} == {"owner"}
    assert [delivery.record.key_id for delivery in store.due_deliveries()] == ["owner"]


def test_a_job_made_without_a_key_is_nobodys(store: JobStore) -> None:
    assert upload(store).key_id is None


def test_what_was_told_before_jobs_had_owners_can_still_be_read(store: JobStore) -> None:
    told = json.loads(tables.snapshot(upload(store)))
    del told["key_id"]

    assert tables.from_snapshot(json.dumps(told)) == store.get("a")
