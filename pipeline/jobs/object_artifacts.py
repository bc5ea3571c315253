"""Artifacts on S3-compatible storage: ``<prefix>/jobs/<job_id>/<name>`` in a bucket.

A single put is atomic: there are neither temporary names nor leftovers.
"""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import NoReturn

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from pipeline.errors import FileNotFound, StorageError
from pipeline.jobs import object_errors, storage_problems
from pipeline.jobs.artifact_names import ArtifactStat, file_not_found, require_safe
from pipeline.jobs.object_location import ObjectLocation
from pipeline.jobs.storage_problems import UnusableStorage

_PIECE_BYTES = 1024 * 1024  # what a download holds in memory; one request each
_LIST_ITEMS = 1000  # S3's own page

# Two attempts fit into 10 s, the most anyone should wait to hear that the storage does not answer.
_CONNECT_S, _SILENCE_S, _RETRY_WITHIN_S, _RETRIES = 2.0, 4.5, 5.0, 2
_READ_S = 600.0  # the whole of a long answer that keeps coming
_SLOWEST_BYTES_PER_S = 2 * 1024 * 1024  # of an upload: its limit must cover the sending
_LARGE_BYTES = 8 * 1024 * 1024

_ERRORS = (BaseError, OSError)  # obstore has FileNotFoundError beside its own


class ObjectArtifacts:
    """Files in a bucket. Endpoint, region and credentials come from the usual ``AWS_*`` variables.

    Raises:
        ValueError: The URL or the variables do not fit together.
    """

    def __init__(self, url: str) -> None:
        self._location = ObjectLocation.parse(url)
        self._store = self._open(_READ_S, _SILENCE_S)
        self._writer = functools.lru_cache(maxsize=8)(self._open)

    def write(self, job_id: str, name: str, data: bytes) -> None:
        key = _key(job_id, name)
        with _asking(name):
            blocks = len(data) // _LARGE_BYTES
            if blocks:
                self._probe()  # storage that hangs is found out at once, not after the patience below
            patience_s = _SILENCE_S + blocks * (_LARGE_BYTES / _SLOWEST_BYTES_PER_S)
            # One put, never parts: those of a killed writer would stay behind, unseen and paid for.
            obstore.put(self._writer(patience_s, patience_s), key, data, use_multipart=False)

    def read(self, job_id: str, name: str) -> bytes:
        stat = self.stat(job_id, name)
        with _asking(name):
            # Pinned: a retry in the middle of the answer must not go on in another file.
            found = obstore.get(self._store, _key(job_id, name), options={"if_match": _quoted(stat.etag)})
            return bytes(found.bytes())

    def stat(self, job_id: str, name: str) -> ArtifactStat:
        key = _key(job_id, name)
        with _asking(name):
            try:
                found = obstore.head(self._store, key)
            except FileNotFoundError:
                self._probe()  # the answer to HEAD has no body: it may be the bucket that is missing
                raise
        return ArtifactStat(found["size"], _unquoted(found["e_tag"]))

    def chunks(self, job_id: str, name: str, start: int, stop: int, *, etag: str | None = None) -> Iterator[bytes]:
        if etag is None:
            etag = self.stat(job_id, name).etag
        key = _key(job_id, name)
        while start < stop:
            piece = self._piece(key, name, start, min(stop, start + _PIECE_BYTES), etag)
            if not piece:
                return
            start += len(piece)
            yield piece

    def delete(self, job_id: str, name: str) -> None:
        key = _key(job_id, name)
        with contextlib.suppress(FileNotFound), _asking(name):
            obstore.delete(self._store, key)

    def delete_job(self, job_id: str) -> None:
        require_safe(job_id, "x")
        with contextlib.suppress(FileNotFound), _asking(job_id):
            for page in obstore.list(self._store, f"jobs/{job_id}", chunk_size=_LIST_ITEMS):
                obstore.delete(self._store, [found["path"] for found in page])

    def job_ids(self) -> Iterator[str]:
        with _asking("jobs"):
            folders = obstore.list_with_delimiter(self._store, "jobs")["common_prefixes"]
        return iter([folder.rsplit("/", 1)[-1] for folder in folders])

    def check_room(self, needed_bytes: int, min_free_bytes: int) -> None:
        """Nobody can know how much a bucket still takes."""

    def sweep(self, older_than_s: float) -> int:
        """Killed writers leave nothing here."""
        return 0

    def check(self) -> None:
        key = f"check/{uuid.uuid4().hex}"
        try:
            obstore.put(self._writer(_SILENCE_S, _SILENCE_S), key, b"clearcut", use_multipart=False)
            try:
                obstore.get(self._store, key).bytes()
                self._probe()
            finally:
                obstore.delete(self._store, key)
        except _ERRORS as error:
            raise UnusableStorage(f"WORK_DIR={self._location}: {object_errors.reason(error)}") from None

    def _piece(self, key: str, name: str, start: int, stop: int, etag: str) -> bytes:
        """The bytes from ``start`` to ``stop`` of exactly the file ``etag``; none behind its end."""
        with _asking(name):
            try:
                found = obstore.get(self._store, key, options={"range": (start, stop), "if_match": _quoted(etag)})
            except BaseError as error:
                if object_errors.is_outside(error):
                    return b""
                raise
            if _unquoted(found.meta["e_tag"]) != etag:  # a server that does not know If-Match
                raise storage_problems.replaced()
            return bytes(found.bytes())

    def _probe(self) -> None:
        """Asks for something small; raises obstore's error if that fails."""
        next(obstore.list(self._store, "jobs", chunk_size=1), None)

    def _open(self, timeout_s: float, silence_s: float) -> S3Store:
        """A client that waits ``timeout_s`` for a whole request and ``silence_s`` for its next byte.

        The time a body takes to be sent counts as silence.
        """
        try:
            return S3Store(
                self._location.bucket,
                prefix=self._location.prefix or None,
                client_options={
                    "allow_http": self._location.plain_http,
                    "connect_timeout": timedelta(seconds=_CONNECT_S),
                    "read_timeout": timedelta(seconds=silence_s),
                    "timeout": timedelta(seconds=timeout_s),
                },
                retry_config={
                    "max_retries": _RETRIES,
                    "retry_timeout": timedelta(seconds=_RETRY_WITHIN_S),
                    "backoff": {
                        "init_backoff": timedelta(seconds=0.1),
                        "max_backoff": timedelta(seconds=0.5),
                        "base": 2,
                    },
                },
            )
        except BaseError as error:
            raise ValueError(f"WORK_DIR: the AWS_ variables are not complete: {object_errors.reason(error)}") from None


def _key(job_id: str, name: str) -> str:
    require_safe(job_id, name)
    return f"jobs/{job_id}/{name}"


@contextlib.contextmanager
def _asking(name: str) -> Iterator[None]:
    """obstore's errors end here."""
    try:
        yield
    except StorageError:
        raise
    except _ERRORS as error:
        _raise_ours(error, name)


def _raise_ours(error: Exception, name: str) -> NoReturn:
    if object_errors.is_missing_file(error):
        raise file_not_found(name) from None
    if object_errors.is_replaced(error):
        raise storage_problems.replaced() from None
    raise object_errors.problem(error) from None


def _unquoted(etag: str | None) -> str:
    return (etag or "").removeprefix("W/").strip('"')


def _quoted(etag: str) -> str:
    return f'"{etag}"'
