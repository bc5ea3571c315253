"""Who may come in: decided from the headers, before a byte of the body is read.

A request is turned away at once, with 503 and ``Retry-After``, when as many removals are in flight as keep in time
(``concurrency.py``), or when the memory for what it declares is taken (``memory_budget.py``). Its body is left unread.

A sender that takes long must not keep others out: its place goes back after ``BODY_GRACE_S``, and it needs a new one
when its body has come.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.concurrency import ConcurrencyLimit, Place
from deployments.errors import error_response
from deployments.memory_budget import MIB, MemoryBudget
from pipeline.errors import Overloaded

logger = logging.getLogger("ray.serve")

SMALL_BODY_BYTES = 64 * 1024
"""Bodies up to here are not counted: polls and commands go on while pictures must wait."""

BODY_GRACE_S = 1.0
REPORT_EVERY_S = 10.0


class Admission:
    """Lets in what there is room for.

    Args:
        app: The next application.
        places: How many removals may be in flight.
        memory: What all requests may hold.
        body_limit_mb: The largest body of a path, in MiB; held for a body of unknown length.
        is_removal: Whether requests to a path need a place.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        places: ConcurrencyLimit,
        memory: MemoryBudget,
        body_limit_mb: Callable[[str], float],
        is_removal: Callable[[str], bool],
    ) -> None:
        self._app = app
        self._places = places
        self._memory = memory
        self._body_limit_mb = body_limit_mb
        self._is_removal = is_removal
        self._refused = 0
        self._reported_at = -REPORT_EVERY_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        arrived = time.perf_counter()
        try:
            memory = self._memory.hold(self._counted_bytes(scope))
        except Overloaded as error:
            return await self._refuse(error, arrived, scope, receive, send)
        with memory:
            scope.setdefault("state", {})["memory"] = memory
            if scope["method"] != "POST" or not self._is_removal(scope["path"]):
                return await self._app(scope, receive, send)
            place = self._places.admit()
            if place is not None:
                return await self._remove(place, scope, receive, send)
        busy = Overloaded("The service is busy. Try again in a moment.", retry_after=self._places.retry_after_s)
        await self._refuse(busy, arrived, scope, receive, send)

    async def _remove(self, place: Place, scope: Scope, receive: Receive, send: Send) -> None:
        with _given_back_if_late(place) as body_has_come:

            async def watched_receive() -> Message:
                message = await receive()
                if message["type"] == "http.request" and not message.get("more_body") and not body_has_come():
                    raise Overloaded(
                        "The service became busy while the upload came in. Try again in a moment.",
                        retry_after=self._places.retry_after_s,
                    )
                return message

            async def watched_send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    place.end(answered=message["status"] == 200)  # how fast it is fetched is the network's matter
                await send(message)

            await self._app(scope, watched_receive, watched_send)

    def _counted_bytes(self, scope: Scope) -> int:
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        if declared.isdecimal() and declared.isascii():
            return int(declared) if int(declared) > SMALL_BODY_BYTES else 0
        return int(self._body_limit_mb(scope["path"]) * MIB) if "transfer-encoding" in headers else 0

    async def _refuse(self, error: Overloaded, arrived: float, scope: Scope, receive: Receive, send: Send) -> None:
        self._refused += 1
        now = time.monotonic()
        if now - self._reported_at >= REPORT_EVERY_S:  # a line for each would be a load of its own
            logger.warning(
                "Busy: %d requests turned away; %d of %d removals in flight, %d of %d MiB held.",
                self._refused,
                self._places.in_flight,
                self._places.limit,
                self._memory.held // MIB,
                self._memory.total // MIB,
            )
            self._refused, self._reported_at = 0, now
        answer = error_response(Request(scope), 503, error.code, error.detail, error.fields)
        headers = MutableHeaders(raw=answer.raw_headers)
        headers["Retry-After"] = str(error.fields["retry_after"])
        headers["Server-Timing"] = f"admission;dur={(time.perf_counter() - arrived) * 1000:.2f}"
        if "transfer-encoding" in Headers(scope=scope):
            # A body without an end in sight. Others are read and dropped by the server: closing the connection on a
            # sender in mid-body resets it, and the answer may be lost.
            headers["Connection"] = "close"
        await answer(scope, receive, send)


@contextmanager
def _given_back_if_late(place: Place) -> Iterator[Callable[[], bool]]:
    """Gives the place back while the body is late, and when the request ends, however it ends.

    Yields what to call when the body has come; it returns False if there is no place for it any more.
    """
    timer = asyncio.get_running_loop().call_later(BODY_GRACE_S, place.leave)

    def body_has_come() -> bool:
        timer.cancel()
        return place.come_back()

    try:
        yield body_has_come
    finally:
        timer.cancel()
        place.end(answered=False)
