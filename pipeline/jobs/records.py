"""What is recorded of a job: the job itself, what happened to it, and the callback that tells of its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipeline.types import MaskQuality

State: TypeAlias = Literal["reserved", "uploaded", "processing", "ready", "error", "canceled"]
"""``reserved`` is a job whose upload is still being written: its owner does not see it yet."""

EventKind: TypeAlias = Literal["stage", "artifact", "end"]


@dataclass(frozen=True)
class JobObject:
    """One object of a job: points in pixels of ``original.png`` with their labels (1 on it, 0 not on it)."""

    points: tuple[tuple[float, float], ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class IdempotencyKey:
    """A client's name for one request, so that it can be sent again.

    Attributes:
        scope: Whose key it is, and for which route: the same key in another scope is another key.
        key: As the client sent it.
        fingerprint: SHA-256 of what the request asks for, in hex.
    """

    scope: str
    key: str
    fingerprint: str


@dataclass(frozen=True)
class JobRecord:
    """A job as it stands on disk. Times are seconds since the epoch, UTC.

    Attributes:
        client: Who opened it; waiting jobs of different clients take turns.
        run: Counts the times it was segmented, from 1; 0 before the first. Files of different runs never share a place.
        attempts: How often work on this run began.
        deaths: How often a model died under this run.
        bytes_stored: What its files take together.
        key_id: Whose it is, if it was made with an API key; else it belongs to whoever knows its id.
    """

    job_id: str
    client: str
    state: State
    stage: str
    progress: int
    run: int
    width: int
    height: int
    objects: tuple[JobObject, ...]
    qualities: tuple[MaskQuality, ...]
    files: tuple[str, ...]
    error: str | None
    attempts: int
    deaths: int
    callback_url: str | None
    bytes_stored: int
    created_at: float
    updated_at: float
    expires_at: float
    key_id: str | None = None


@dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job, with the job as it stood then.

    Attributes:
        number: 1, 2, 3, ... within the job.
        name: The stage reached, the file that is ready, or the state the job ended in.
    """

    number: int
    kind: EventKind
    name: str
    record: JobRecord


@dataclass(frozen=True)
class JobView:
    """A job for its owner: the record, and for a waiting job its place (1 is next) and the seconds until its turn."""

    record: JobRecord
    queue_position: int | None = None
    estimated_wait_s: float | None = None


@dataclass(frozen=True)
class Delivery:
    """A callback to be sent: the same id every time it is tried, so that its receiver can drop repeats."""

    delivery_id: str
    job_id: str
    url: str
    record: JobRecord
    attempts: int
    due_at: float
