"""Idempotency keys: which job a request made when it first came."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from pipeline.errors import KeyReused
from pipeline.jobs.records import IdempotencyKey
from pipeline.jobs.tables import jobs, keys


def find(connection: sa.Connection, key: IdempotencyKey | None, *, now: float, job_id: str | None = None) -> str | None:
    """The living job that ``key`` belongs to, or None.

    Raises:
        KeyReused: It came with another request, or for another job than ``job_id``.
    """
    if key is None:
        return None
    alive = sa.or_(jobs.c.expires_at > now, jobs.c.state == "processing")
    query = sa.select(keys.c.job_id, keys.c.fingerprint).join(jobs, jobs.c.job_id == keys.c.job_id)
    row = connection.execute(query.where(keys.c.digest == _digest(key), alive)).first()
    if row is None:
        return None
    if row.fingerprint != key.fingerprint or job_id not in (None, row.job_id):
        raise KeyReused("This Idempotency-Key was used for another request. Take a new key for a new request.")
    return str(row.job_id)


def keep(connection: sa.Connection, key: IdempotencyKey | None, job_id: str) -> None:
    """Ties ``key`` to the job; ``find`` was asked before."""
    if key is None:
        return
    digest = _digest(key)
    connection.execute(sa.delete(keys).where(keys.c.digest == digest))  # an expired job's
    connection.execute(sa.insert(keys).values(digest=digest, fingerprint=key.fingerprint, job_id=job_id))


def _digest(key: IdempotencyKey) -> str:
    return hashlib.sha256(repr((key.scope, key.key)).encode("utf-8", "backslashreplace")).hexdigest()
