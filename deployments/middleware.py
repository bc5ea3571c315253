"""What happens to every request around its route: an id, a limit on the body, no escape for exceptions."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import error_response, internal_error, route_of
from deployments.request_id import SAFE_REQUEST_ID

logger = logging.getLogger("ray.serve")

MIB = 1024 * 1024
FORM_OVERHEAD_BYTES = 256 * 1024
"""Room for the other fields and the boundaries around a file of the largest size."""


class BodyTooLarge(HTTPException):
    """413 while the body still streams. An ``HTTPException``, since form and JSON parsers let only these pass."""

    def __init__(self, max_size_mb: float, size_bytes: int) -> None:
        super().__init__(413, f"File size exceeds {max_size_mb:g}MB limit")
        self.fields = {"file_size_mb": round(size_bytes / MIB, 1), "max_size_mb": max_size_mb}


class RequestContext:
    """Gives each request its id, and answers with our error body whatever a route lets escape.

    Args:
        app: The next application.
        send_id: Whether to send the id as ``X-Request-ID``; Serve's proxy does so itself.
    """

    def __init__(self, app: ASGIApp, *, send_id: bool = True) -> None:
        self._app = app
        self._send_id = send_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if SAFE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                if self._send_id:
                    headers["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            logger.exception("%s %s failed (request %s).", scope["method"], route_of(scope), request_id)
            if started:
                raise
            await internal_error(Request(scope))(scope, receive, send_with_id)


class BodyLimit:
    """Stops bodies over the limit of their path, by their declared length or while they stream.

    Args:
        app: The next application.
        limit_mb: The largest body of a path, in MiB.
    """

    def __init__(self, app: ASGIApp, limit_mb: Callable[[str], float]) -> None:
        self._app = app
        self._limit_mb = limit_mb

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        limit_mb = self._limit_mb(scope["path"])
        limit = int(limit_mb * MIB) + FORM_OVERHEAD_BYTES
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            error = BodyTooLarge(limit_mb, int(declared))
            answer = error_response(Request(scope), 413, "FILE_TOO_LARGE", error.detail, error.fields)
            answer.headers["Connection"] = "close"  # the body was not read
            return await answer(scope, receive, send)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise BodyTooLarge(limit_mb, received)
            return message

        await self._app(scope, counted, send)
