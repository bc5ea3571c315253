"""A job while one transaction changes it: its record, what only the store knows of it, and the events it makes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from pipeline.jobs import outbox, tables
from pipeline.jobs.records import EventKind, JobEvent, JobRecord


class Draft:
    """A job to be changed; nothing is written before ``save``.

    Args:
        connection: The transaction.
        row: All columns of the job.
        now: Time of the change, seconds since the epoch.
        ttl_s: Seconds the job lives after it.
    """

    def __init__(self, connection: sa.Connection, row: sa.Row[Any], *, now: float, ttl_s: float) -> None:
        self._connection = connection
        self._sizes: dict[str, int] = json.loads(row.sizes)
        self._queued_at: float = row.queued_at
        self._last_event: int = row.last_event
        self._now = now
        self.record = replace(tables.to_record(row), updated_at=now, expires_at=now + ttl_s)

    def change(self, **values: Any) -> None:
        """Sets fields of the record."""
        self.record = replace(self.record, **values)

    def enqueue(self) -> None:
        """Puts it at the end of the line."""
        self._queued_at = self._now

    def add_file(self, name: str, size: int) -> None:
        """Lists a file of ``size`` bytes; listed before, it only has a new size."""
        files = self.record.files if name in self.record.files else (*self.record.files, name)
        self.change(files=files, bytes_stored=self.record.bytes_stored + size - self._sizes.get(name, 0))
        self._sizes[name] = size

    def keep_files(self, names: tuple[str, ...]) -> None:
        """Lists no other files than these, and counts only their bytes."""
        files = tuple(name for name in self.record.files if name in names)
        self._sizes = {name: size for name, size in self._sizes.items() if name in files}
        self.change(files=files, bytes_stored=sum(self._sizes.values()))

    def tell(self, kind: EventKind, name: str) -> None:
        """Writes an event down, with the record as it is by now."""
        self._last_event += 1
        self._connection.execute(
            sa.insert(tables.events).values(
                job_id=self.record.job_id,
                number=self._last_event,
                run=self.record.run,
                kind=kind,
                name=name,
                record=tables.snapshot(self.record),
            )
        )

    def end(self) -> None:
        """Tells that it ended: as an event, and by callback if it has somebody to call."""
        self.tell("end", self.record.state)
        outbox.add(self._connection, self.record, now=self._now)

    def forget_events_before(self, run: int) -> None:
        """Removes the events of runs before ``run``."""
        events = tables.events
        ours = sa.and_(events.c.job_id == self.record.job_id, events.c.run < run)
        self._connection.execute(sa.delete(events).where(ours))

    def save(self) -> JobRecord:
        """Writes the job; its record."""
        self._connection.execute(
            sa.update(tables.jobs)
            .where(tables.jobs.c.job_id == self.record.job_id)
            .values(
                **tables.to_row(self.record),
                sizes=json.dumps(self._sizes),
                queued_at=self._queued_at,
                last_event=self._last_event,
            )
        )
        return self.record


def events_after(connection: sa.Connection, job_id: str, number: int) -> list[JobEvent]:
    """The job's events with a higher number, in order."""
    events = tables.events
    query = sa.select(events).where(events.c.job_id == job_id, events.c.number > number).order_by(events.c.number)
    return [
        JobEvent(row.number, row.kind, row.name, tables.from_snapshot(row.record)) for row in connection.execute(query)
    ]
