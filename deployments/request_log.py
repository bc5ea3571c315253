"""One line for every request: what it was, what became of it, and where its time went.

Never what people send: no pictures, keys, file names, job ids, query strings or addresses. A route stands in it as it
is declared (``/status/{job_id}``), a key by the name its owner gave it.
"""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.clients import client_in
from deployments.errors import route_of

logger = logging.getLogger("ray.serve")

_STAGE = re.compile(r"([a-z_]+);dur=([0-9.]+)")


class RequestLog:
    """Logs each request when its answer ends.

    The line's fields: ``request_id``, ``method``, ``route``, ``status``, ``bytes_in``, ``bytes_out``, ``duration_ms``,
    and, where there are any, ``error_code``, ``client_name`` and ``stages_ms``. Status 499 is a client that left
    before it was answered.

    Args:
        app: The next application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = time.perf_counter()
        status, bytes_in, bytes_out, stages = 499, 0, 0, {}

        async def counted_receive() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status, bytes_out, stages
            if message["type"] == "http.response.start":
                status = message["status"]
                stages = _stages(Headers(raw=message["headers"]).get("server-timing", ""))
            bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        finally:
            state = scope.get("state", {})
            fields: dict[str, Any] = {
                "request_id": state.get("request_id"),
                "method": scope["method"] if scope["method"] in _METHODS else "other",
                "route": route_of(scope),
                "status": status,
                "bytes_in": bytes_in,
                "bytes_out": bytes_out,
                "duration_ms": round((time.perf_counter() - started) * 1000, 1),
                "error_code": state.get("error_code"),
                "client_name": client_in(scope).name,
                "stages_ms": stages,
            }
            told = {name: value for name, value in fields.items() if value not in (None, {})}
            line = "%(method)s %(route)s %(status)d %(duration_ms).1fms"
            logger.info(line, fields, extra={**told, "event": "request"})


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _stages(server_timing: str) -> dict[str, float]:
    return {name: float(value) for name, value in _STAGE.findall(server_timing)}
