"""Stored files over HTTP: whole or in part (RFC 9110 ranges), with a tag to resume by."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pipeline.jobs.artifacts import ArtifactStore

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)


async def artifact_response(request: Request, artifacts: ArtifactStore, job_id: str, name: str) -> Response:
    """The file, or the one range asked for; 304 if the client has it already.

    Raises:
        FileNotFound: There is none.
        HTTPException: 416, the range lies outside the file.
    """
    stat = await asyncio.to_thread(artifacts.stat, job_id, name)
    etag = f'"{stat.etag}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'attachment; filename="{name}"',
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
    chunks = _chunks(artifacts, job_id, name, start, stop)
    return StreamingResponse(chunks, status_code=status, media_type="image/png", headers=headers)


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


async def _chunks(artifacts: ArtifactStore, job_id: str, name: str, start: int, stop: int) -> AsyncIterator[bytes]:
    iterator = artifacts.chunks(job_id, name, start, stop)
    while (chunk := await asyncio.to_thread(next, iterator, None)) is not None:
        yield chunk
