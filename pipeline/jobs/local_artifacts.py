"""Artifacts in a folder: ``<root>/jobs/<job_id>/<name>``."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import StorageError
from pipeline.jobs import storage_problems
from pipeline.jobs.artifact_names import ArtifactStat, file_not_found, require_safe
from pipeline.jobs.storage_problems import UnusableStorage

_CHUNK_BYTES = 256 * 1024
_UNFINISHED = ".*.part"  # no file of a job may begin with a dot
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NO_ANSWER = {errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ESTALE}  # what network folders say
_DELETE_TRIES = 3


class LocalArtifacts:
    """Files on a disk that is ours: a file has its name only after its last byte is safe."""

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
            raise _problem(error) from error

    def read(self, job_id: str, name: str) -> bytes:
        with _reading(name):
            return self._path(job_id, name).read_bytes()

    def stat(self, job_id: str, name: str) -> ArtifactStat:
        with _reading(name):
            return _stat(self._path(job_id, name).stat())

    def chunks(self, job_id: str, name: str, start: int, stop: int, *, etag: str | None = None) -> Iterator[bytes]:
        with _reading(name), self._path(job_id, name).open("rb") as file:
            if etag is not None and _stat(os.fstat(file.fileno())).etag != etag:
                raise storage_problems.replaced()
            file.seek(start)
            while start < stop and (chunk := file.read(min(_CHUNK_BYTES, stop - start))):
                start += len(chunk)
                yield chunk

    def delete(self, job_id: str, name: str) -> None:
        try:
            self._path(job_id, name).unlink(missing_ok=True)
        except OSError as error:
            raise _problem(error) from error

    def delete_job(self, job_id: str) -> None:
        folder = self._path(job_id, "x").parent
        problem: OSError | None = None
        for _ in range(_DELETE_TRIES):  # a writer may add a file between the emptying and the removal
            try:
                shutil.rmtree(folder)
            except FileNotFoundError:
                if not folder.exists():  # else it was one of its files that somebody else removed
                    return
            except OSError as error:
                problem = error
            else:
                return
        if folder.exists():
            raise _problem(problem or OSError(errno.ENOTEMPTY, "still being written to", str(folder)))

    def job_ids(self) -> Iterator[str]:
        return iter([folder.name for folder in self._folders() if not folder.name.startswith(".")])

    def check_room(self, needed_bytes: int, min_free_bytes: int) -> None:
        existing = next(folder for folder in (self._jobs, *self._jobs.absolute().parents) if folder.is_dir())
        try:
            free = shutil.disk_usage(existing).free
        except OSError as error:
            raise _problem(error) from error
        if free - needed_bytes < min_free_bytes:
            raise storage_problems.full(f"{free} bytes free, {needed_bytes} needed, {min_free_bytes} to be left")

    def sweep(self, older_than_s: float) -> int:
        oldest = time.time() - older_than_s
        count = 0
        for folder in (self._jobs, *self._folders()):
            for path in folder.glob(_UNFINISHED):
                with contextlib.suppress(OSError):  # finished, or deleted by another
                    if path.stat().st_mtime <= oldest:
                        path.unlink()
                        count += 1
        return count

    def check(self) -> None:
        probe = self._jobs / f".check.{uuid.uuid4().hex}.part"
        try:
            self._jobs.mkdir(parents=True, exist_ok=True)
            try:
                probe.write_bytes(b"clearcut")
                _sync_folder(self._jobs)
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            if error.errno in _NO_ROOM:
                return  # it works but for the room, which jobs that end give back
            raise UnusableStorage(f"WORK_DIR: cannot write to {self._jobs}: {error.strerror or error}.") from error

    def _folders(self) -> list[Path]:
        try:
            with os.scandir(self._jobs) as entries:
                return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _problem(error) from error

    def _path(self, job_id: str, name: str) -> Path:
        require_safe(job_id, name)
        return self._jobs / job_id / name


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise file_not_found(name) from None
    except OSError as error:
        raise _problem(error) from error


def _problem(error: OSError) -> StorageError:
    if error.errno in _NO_ROOM:
        return storage_problems.full(str(error))
    if error.errno in _NO_ANSWER:
        return storage_problems.unavailable(str(error))
    return storage_problems.refused(str(error))


def _stat(found: os.stat_result) -> ArtifactStat:
    return ArtifactStat(found.st_size, f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}")


def _sync_folder(folder: Path) -> None:
    """Puts the folder's names on disk: a power cut would lose a new one without."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
