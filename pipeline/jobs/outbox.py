"""Callbacks to be sent. They are written with the change they tell of, and stay until they arrived or are given up."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from pipeline.jobs import tables
from pipeline.jobs.records import Delivery, JobRecord
from pipeline.jobs.tables import deliveries


def add(connection: sa.Connection, record: JobRecord, *, now: float) -> None:
    """Writes down that the job's owner is to be told, if there is somebody to tell."""
    if record.callback_url is None:
        return
    connection.execute(
        sa.insert(deliveries).values(
            delivery_id=uuid.uuid4().hex,
            job_id=record.job_id,
            url=record.callback_url,
            record=tables.snapshot(record),
            attempts=0,
            due_at=now,
        )
    )


def due(connection: sa.Connection, *, now: float, limit: int) -> list[Delivery]:
    """At most ``limit`` whose time has come, the one waiting longest first."""
    query = sa.select(deliveries).where(deliveries.c.due_at <= now)
    rows = connection.execute(query.order_by(deliveries.c.due_at, deliveries.c.delivery_id).limit(limit))
    return [
        Delivery(row.delivery_id, row.job_id, row.url, tables.from_snapshot(row.record), row.attempts, row.due_at)
        for row in rows
    ]


def next_at(connection: sa.Connection) -> float | None:
    """When the first is due, or None if there is none."""
    earliest: float | None = connection.scalar(sa.select(sa.func.min(deliveries.c.due_at)))
    return earliest


def remove(connection: sa.Connection, delivery_id: str) -> None:
    """Forgets it: it arrived, or is given up."""
    connection.execute(sa.delete(deliveries).where(deliveries.c.delivery_id == delivery_id))


def postpone(connection: sa.Connection, delivery_id: str, *, until: float) -> None:
    """Counts a vain attempt; the next is due at ``until``."""
    change = sa.update(deliveries).where(deliveries.c.delivery_id == delivery_id)
    connection.execute(change.values(attempts=deliveries.c.attempts + 1, due_at=until))
