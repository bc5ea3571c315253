"""Stored files over HTTP: whole or in part (RFC 9110 ranges), with a tag to resume by."""

from __future__ import annotations

import asyncio
import contextvars
import re
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pipeline.errors import FileNotFound
from pipeline.jobs import storage_problems
from pipeline.jobs.artifacts import ArtifactStore

T = TypeVar("T")

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)

# Threads of their own: storage that hangs holds up other downloads, and never the decoding of images.
_THREADS = ThreadPoolExecutor(16, thread_name_prefix="download")
_ANSWER_WITHIN_S = 12.0  # a thread that comes free, and then the storage's own limits


async def artifact_response(
    request: Request, artifacts: ArtifactStore, job_id: str, stored: str, filename: str
) -> Response:
    """The file, or the one range asked for; 304 if the client has it already.

    Its first bytes are read before anything is answered, so a storage that fails is told with a proper status. One
    that fails later, or another file in its place, cuts the answer off: the client gets fewer bytes than announced and
    can resume.

    Args:
        stored: The file's name in the storage.
        filename: The name it is downloaded under.

    Raises:
        FileNotFound: There is none.
        StorageError: The storage does not work now.
        HTTPException: 416, the range lies outside the file.
    """
    try:
        return await _respond(request, artifacts, job_id, stored, filename)
    except FileNotFound as error:
        raise FileNotFound(error.detail, filename=filename) from None


async def _respond(request: Request, artifacts: ArtifactStore, job_id: str, stored: str, filename: str) -> Response:
    stat = await _in_thread(lambda: artifacts.stat(job_id, stored))
    etag = f'"{stat.etag}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="{filename}"',
        "X-Content-Type-Options": "nosniff",
    }
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    start, stop, status = 0, stat.size, 200
    wanted = request.headers.get("range", "") if request.method == "GET" else ""  # HEAD knows no ranges
    if request.headers.get("if-range", etag) == etag and (span := _span(wanted, stat.size)) is not None:
        (start, stop), status = span, 206
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{stat.size}"
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, media_type="image/png", headers=headers)
    chunks = artifacts.chunks(job_id, stored, start, stop, etag=stat.etag)
    first = await _next(chunks)
    return StreamingResponse(_stream(first, chunks), status_code=status, media_type="image/png", headers=headers)


def _span(header: str, size: int) -> tuple[int, int] | None:
    """Start and stop of the one range in ``header``; None for no, several or odd ranges, which means all of it."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start >= stop:
        raise HTTPException(416, "The range lies outside the file.", {"Content-Range": f"bytes */{size}"})
    return start, stop


async def _stream(first: bytes | None, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    chunk = first
    while chunk is not None:
        yield chunk
        chunk = await _next(chunks)


async def _next(chunks: Iterator[bytes]) -> bytes | None:
    return await _in_thread(lambda: next(chunks, None))


async def _in_thread(call: Callable[[], T]) -> T:
    run = contextvars.copy_context().run  # what is logged there carries this request's id
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            return await asyncio.get_running_loop().run_in_executor(_THREADS, run, call)
    except TimeoutError:
        raise storage_problems.unavailable(f"no answer within {_ANSWER_WITHIN_S} s") from None
