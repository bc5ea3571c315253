"""The files of jobs: written whole or not at all, read in pieces."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.errors import FileNotFound, StorageError, StorageFull

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class ArtifactStat:
    """A stored file's size in bytes, and a tag that changes with its content."""

    size: int
    etag: str


class ArtifactStore(Protocol):
    """Where jobs keep their files. Calls block: run them in a thread."""

    def write(self, job_id: str, name: str, data: bytes) -> None:
        """Keeps ``data``; whoever reads sees the old file or the whole new one.

        Raises:
            StorageFull: There is no room.
            StorageError: The storage does not take it.
        """
        ...

    def read(self, job_id: str, name: str) -> bytes:
        """The whole file. Raises ``FileNotFound``."""
        ...

    def stat(self, job_id: str, name: str) -> ArtifactStat:
        """Size and tag. Raises ``FileNotFound``."""
        ...

    def chunks(self, job_id: str, name: str, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from ``start`` up to, not including, ``stop``. Raises ``FileNotFound``."""
        ...

    def delete_job(self, job_id: str) -> None:
        """Removes everything of a job; it is no error if there is nothing."""
        ...


class LocalArtifacts:
    """Artifacts in a folder: ``<root>/jobs/<job_id>/<name>``."""

    def __init__(self, root: Path) -> None:
        self._jobs = root / "jobs"

    def write(self, job_id: str, name: str, data: bytes) -> None:
        path = self._path(job_id, name)
        temporary = path.with_name(f".{name}.{uuid.uuid4().hex}.part")
        try:
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                _sync_folder(self._jobs)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull("The server has no room for more files. Try again later.") from error
            raise StorageError("The server could not store a file.") from error

    def read(self, job_id: str, name: str) -> bytes:
        try:
            return self._path(job_id, name).read_bytes()
        except FileNotFoundError:
            raise _not_found(name) from None

    def stat(self, job_id: str, name: str) -> ArtifactStat:
        try:
            found = self._path(job_id, name).stat()
        except FileNotFoundError:
            raise _not_found(name) from None
        return ArtifactStat(found.st_size, f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}")

    def chunks(self, job_id: str, name: str, start: int, stop: int) -> Iterator[bytes]:
        try:
            file = self._path(job_id, name).open("rb")
        except FileNotFoundError:
            raise _not_found(name) from None
        with file:
            file.seek(start)
            while start < stop and (chunk := file.read(min(_CHUNK_BYTES, stop - start))):
                start += len(chunk)
                yield chunk

    def delete_job(self, job_id: str) -> None:
        shutil.rmtree(self._path(job_id, "x").parent, ignore_errors=True)

    def _path(self, job_id: str, name: str) -> Path:
        if not (_SAFE_NAME.fullmatch(job_id) and _SAFE_NAME.fullmatch(name)):
            raise _not_found(name)
        return self._jobs / job_id / name


def _sync_folder(folder: Path) -> None:
    """Puts the folder's names on disk: a power cut would lose a new one without."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_found(name: str) -> FileNotFound:
    return FileNotFound("File not found", filename=name[:128])
