"""The tables of the jobs' database as of its newest version; ``migrations/`` brings older ones here."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from pipeline.jobs.records import JobObject, JobRecord
from pipeline.types import MaskQuality

metadata = sa.MetaData()

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("job_id", sa.String(32), primary_key=True),
    sa.Column("client", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("stage", sa.String(32), nullable=False),
    sa.Column("progress", sa.Integer, nullable=False),
    sa.Column("run", sa.Integer, nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("objects", sa.Text, nullable=False),  # JSON: the prompts as they were accepted
    sa.Column("qualities", sa.Text, nullable=False),  # JSON: coverage and confidence of each object found
    sa.Column("files", sa.Text, nullable=False),  # JSON: names, in order of appearance
    sa.Column("error", sa.Text, nullable=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("deaths", sa.Integer, nullable=False),
    sa.Column("callback_url", sa.Text, nullable=True),
    sa.Column("bytes_stored", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False, index=True),
    # Not in the record: what only the store reads.
    sa.Column("sizes", sa.Text, nullable=False),  # JSON: bytes of each listed file whose size was told
    sa.Column("queued_at", sa.Float, nullable=False),  # when its run was started
    sa.Column("last_event", sa.Integer, nullable=False),  # number of its newest event
    sa.Column("key_id", sa.String(32), nullable=True),
)

events = sa.Table(
    "job_events",
    metadata,
    sa.Column("job_id", sa.String(32), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("run", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("record", sa.Text, nullable=False),  # JSON: the job as it stood then
)

keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),  # SHA-256 of scope and key, which may be long
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("job_id", sa.String(32), nullable=False, index=True),
)

doomed = sa.Table(
    "doomed_jobs",  # forgotten, but their files are still there
    metadata,
    sa.Column("job_id", sa.String(32), primary_key=True),
    sa.Column("bytes_stored", sa.BigInteger, nullable=False),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("delivery_id", sa.String(32), primary_key=True),
    sa.Column("job_id", sa.String(32), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("record", sa.Text, nullable=False),  # JSON: the job as it ended
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", sa.Float, nullable=False, index=True),
)

lease = sa.Table(
    "lease",  # one row, there from the beginning, so that whoever wants it has something to lock
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("token", sa.String(32), nullable=True),
    sa.Column("expires_at", sa.Float, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("prefix", sa.String(8), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("key_id", sa.String(32), nullable=False),  # its owner: a rotated key and its successor share it
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("tier", sa.String(16), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("last_used_at", sa.Float, nullable=True),
    sa.Column("ends_at", sa.Float, nullable=True),
    sa.Index(
        "ix_api_keys_one_per_name",
        "name",
        unique=True,
        sqlite_where=sa.text("ends_at IS NULL"),
        postgresql_where=sa.text("ends_at IS NULL"),
    ),
)

secrets = sa.Table(
    "secrets",  # what this installation made for itself
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

_RECORD = tuple(field.name for field in fields(JobRecord))
record_columns = tuple(jobs.c[name] for name in _RECORD)


def to_row(record: JobRecord) -> dict[str, Any]:
    """The record's columns."""
    row = {name: getattr(record, name) for name in _RECORD}
    row["objects"] = json.dumps([[item.points, item.labels] for item in record.objects])
    row["qualities"] = json.dumps([[item.coverage, item.confidence] for item in record.qualities])
    row["files"] = json.dumps(record.files)
    return row


def to_record(row: sa.Row[Any]) -> JobRecord:
    """The record of a row that holds at least its columns."""
    return _parse({name: row._mapping[name] for name in _RECORD})


def snapshot(record: JobRecord) -> str:
    """The record as one JSON text, for what must tell of it as it stood."""
    return json.dumps(to_row(record))


def from_snapshot(text: str) -> JobRecord:
    return _parse(json.loads(text))


def _parse(values: dict[str, Any]) -> JobRecord:
    objects = json.loads(values["objects"])
    values["objects"] = tuple(JobObject(tuple((x, y) for x, y in points), tuple(labels)) for points, labels in objects)
    values["qualities"] = tuple(MaskQuality(*pair) for pair in json.loads(values["qualities"]))
    values["files"] = tuple(json.loads(values["files"]))
    return JobRecord(**values)
