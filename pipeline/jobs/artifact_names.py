"""What a job's file may be called, and what is told of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.errors import FileNotFound

ORIGINAL = "original.png"
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class ArtifactStat:
    """A stored file's size in bytes, and a tag that changes with its content."""

    size: int
    etag: str


def stored_name(run: int, name: str) -> str:
    """Where file ``name`` of a run lies.

    Each run has places of its own, so a job segmented again never replaces a file that somebody is downloading. The
    upload belongs to all runs.
    """
    return name if name == ORIGINAL else f"r{run}.{name}"


def require_safe(job_id: str, name: str) -> None:
    """Raises ``FileNotFound`` for names that no job and no file can have: they could lead out of the job's folder."""
    if not (_SAFE_NAME.fullmatch(job_id) and _SAFE_NAME.fullmatch(name)):
        raise file_not_found(name)


def file_not_found(name: str) -> FileNotFound:
    return FileNotFound("File not found", filename=name[:128])
