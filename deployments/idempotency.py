"""``Idempotency-Key``: a client's name for a request, so that sending it again does nothing twice."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from fastapi import Header

from pipeline.jobs.records import IdempotencyKey, JobObject

MAX_KEY_LENGTH = 255
ANONYMOUS = "anonymous"

KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=MAX_KEY_LENGTH,
        pattern=r"^[!-~]*$",
        description="Your name for this request, kept as long as the job: sent again, it gets the same answer; "
        "with another body it is refused. Visible ASCII characters; best a random UUID.",
        examples=["8e03978e-40d5-43e8-bc93-6894a57f9324"],
    ),
]


def upload_key(
    key: str | None, data: bytes, declared_type: str | None, *, owner: str | None = None
) -> IdempotencyKey | None:
    """The key of an upload: its file decides the job, and the type it claims whether it is taken."""
    if key is None:
        return None
    return _key(owner, "/upload", key, (declared_type or "").encode(), data)


def segment_key(
    key: str | None,
    job_id: str,
    objects: tuple[JobObject, ...],
    callback_url: str | None,
    *,
    owner: str | None = None,
) -> IdempotencyKey | None:
    """The key of a request for work: however its points were written, the same work is the same request."""
    if key is None:
        return None
    work = [job_id, [[item.points, item.labels] for item in objects], callback_url]
    return _key(owner, "/segment", key, json.dumps(work, separators=(",", ":")).encode())


def _key(owner: str | None, route: str, key: str, *parts: bytes) -> IdempotencyKey:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8))  # where one part ends counts too
        digest.update(part)
    return IdempotencyKey(f"{owner or ANONYMOUS} {route}", key, digest.hexdigest())
