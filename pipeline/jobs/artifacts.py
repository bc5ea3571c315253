"""The files of jobs, wherever they are: written whole or not at all, read in pieces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from pipeline.jobs.artifact_names import ArtifactStat, stored_name
from pipeline.jobs.local_artifacts import LocalArtifacts

__all__ = ["ArtifactStat", "ArtifactStore", "LocalArtifacts", "open_artifacts", "stored_name"]

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


class ArtifactStore(Protocol):
    """Where jobs keep their files. Calls block, and may come from many threads at once.

    Every method raises ``StorageUnavailable`` if the storage does not answer in time, and ``StorageError`` if it
    refuses; what it said is in the log.
    """

    def write(self, job_id: str, name: str, data: bytes) -> None:
        """Keeps ``data``; whoever reads sees the old file or the whole new one. Raises ``StorageFull``."""
        ...

    def read(self, job_id: str, name: str) -> bytes:
        """The whole file. Raises ``FileNotFound``."""
        ...

    def stat(self, job_id: str, name: str) -> ArtifactStat:
        """Size and tag. Raises ``FileNotFound``."""
        ...

    def chunks(self, job_id: str, name: str, start: int, stop: int, *, etag: str | None = None) -> Iterator[bytes]:
        """The bytes from ``start`` up to, not including, ``stop``, all of one and the same file.

        Args:
            etag: The file meant, by the tag that ``stat`` told; None for the one that is there now.

        Raises:
            FileNotFound: There is none.
            StorageUnavailable: Another file has taken its place.
        """
        ...

    def delete(self, job_id: str, name: str) -> None:
        """Removes one file; it is no error if there is none."""
        ...

    def delete_job(self, job_id: str) -> None:
        """Removes everything of a job; it is no error if there is nothing."""
        ...

    def job_ids(self) -> Iterator[str]:
        """The jobs that have something here, in no order."""
        ...

    def check_room(self, needed_bytes: int, min_free_bytes: int) -> None:
        """Raises ``StorageFull`` if ``needed_bytes`` more would leave less than ``min_free_bytes``, if one can know."""
        ...

    def sweep(self, older_than_s: float) -> int:
        """Removes what killed writers left unfinished longer ago than that; how many there were."""
        ...

    def check(self) -> None:
        """Tries to write, read and delete, before anybody depends on it.

        Raises:
            UnusableStorage: It cannot; the text tells an operator why.
        """
        ...


def open_artifacts(work_dir: str) -> ArtifactStore:
    """The files of ``WORK_DIR``: a folder, or ``s3://bucket/prefix`` on S3-compatible storage.

    Raises:
        ValueError: ``work_dir`` is neither, or the settings of S3 do not fit together.
    """
    url = _URL.match(work_dir)
    if url is None and work_dir.strip():
        return LocalArtifacts(Path(work_dir))
    if url is None or url[1].lower() != "s3":
        raise ValueError("WORK_DIR must be a folder or s3://bucket/prefix.")
    from pipeline.jobs.object_artifacts import ObjectArtifacts  # a service on a folder does not need obstore

    return ObjectArtifacts(work_dir)
