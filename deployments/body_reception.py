"""How long a body may take, and what it may hold until it is complete.

Serve reads a body from the client as fast as it comes, into queues without an end, whether a route asks for it or not.
So bodies are received here and not by the routes: that of a route that takes none, or that is busy with something else,
keeps the same limits.

A sender has ``timeout_s``, and a second more for every ``MIN_BYTES_PER_S`` it has sent, as in Apache's mod_reqtimeout:
who is only slow (2G sends 10 to 30 kB/s, 3G 50 kB/s and more) finishes; who sends a byte now and then does not. Half of
``timeout_s`` without a single byte ends it too. The answer is 408 ``UPLOAD_TIMEOUT``.

A body that has not come within ``LATE_S`` no longer holds the memory that it declared (``admission.py``), only what it
has sent, and counts among the late ones, which are bounded (``late_bodies.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import cast

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.admission import SMALL_BODY_BYTES
from deployments.errors import answer_to
from deployments.late_bodies import LateBodies, LateBody
from deployments.memory_budget import HeldMemory
from pipeline.errors import ClearcutError, UploadTimeout

MIN_BYTES_PER_S = 16 * 1024
LATE_S = 1.0
LINGER_S = 2.0
LINGER_BYTES = 16 * 1024 * 1024


class BodyReception:
    """Receives each body as it comes, and cuts off senders that are too slow.

    Args:
        app: The next application.
        timeout_s: Seconds for any body, however large, plus what its size earns it.
        late: The late bodies of this replica.
        sender_of: The address that a request comes from.
    """

    def __init__(self, app: ASGIApp, *, timeout_s: float, late: LateBodies, sender_of: Callable[[Scope], str]) -> None:
        self._app = app
        self._timeout_s = timeout_s
        self._late = late
        self._sender_of = sender_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not has_body(scope):
            return await self._app(scope, receive, send)
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.body" and not message.get("more_body"):
                await body.stop()  # one reader at a time: whoever sends the end may read on
            await send(message)

        body = _Body(receive, self._sender_of(scope), _memory_of(scope), self._timeout_s, self._late)
        try:
            async with body.coming():
                await self._app(scope, body.receive, watched_send)
        except _Cut as cut:
            if started:
                return  # cut off: the server closes the connection
            if not isinstance(cut.problem, ClearcutError | HTTPException):
                raise cut.problem from None
            await answer_to(Request(scope), cut.problem)(scope, receive, send)


class Lingering:
    """Closes connections whose body is not read to its end, but not on the answer.

    Closing on a sender in mid-body resets the connection, and the answer may be lost. So what still comes is dropped,
    for ``LINGER_S`` and ``LINGER_BYTES`` at most. Bodies that a refusal leaves unread and whose length is known and
    allowed cost less: the server drops the rest of them by itself and keeps the connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not has_body(scope):
            return await self._app(scope, receive, send)
        endless = "transfer-encoding" in Headers(scope=scope)
        complete = closing = False

        async def watched_receive() -> Message:
            nonlocal complete
            message = await receive()
            complete = not message.get("more_body", False)
            return message

        async def lingering_send(message: Message) -> None:
            nonlocal closing
            if message["type"] == "http.response.start":
                closing = not complete and (endless or message["status"] in (408, 413))
                if closing:
                    MutableHeaders(scope=message)["Connection"] = "close"
            if not closing or complete or message["type"] != "http.response.body" or message.get("more_body"):
                return await send(message)
            await send({**message, "more_body": True})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    await _drain(receive)
            await send({"type": "http.response.body", "body": b""})

        await self._app(scope, watched_receive, lingering_send)


async def _drain(receive: Receive) -> None:
    dropped = 0
    while dropped < LINGER_BYTES:
        message = await receive()
        dropped += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return


def has_body(scope: Scope) -> bool:
    """Whether the request announces a body; without that, HTTP/1.1 has none."""
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip("0") != ""


class _Cut(Exception):
    def __init__(self, problem: Exception) -> None:
        super().__init__(str(problem))
        self.problem = problem


class _Body:
    """One body: a task receives it, the route takes it from here."""

    def __init__(
        self, source: Receive, sender: str, memory: HeldMemory | None, timeout_s: float, late: LateBodies
    ) -> None:
        self._source = source
        self._memory = memory
        self._timeout_s = timeout_s
        self._late = late
        self._sent = LateBody(sender, self._evict)
        self._messages: deque[Message] = deque()
        self._news = asyncio.Event()
        self._complete = False
        self._problem: Exception | None = None
        self._deadline = asyncio.get_running_loop().time() + timeout_s
        self._watch = asyncio.timeout(None)

    @contextlib.asynccontextmanager
    async def coming(self) -> AsyncIterator[None]:
        """Receives the body while the block runs. Raises ``_Cut`` into its place if it must not go on."""
        self._receiving = asyncio.create_task(self._receive_all())
        lateness = asyncio.get_running_loop().call_later(LATE_S, self._is_late)
        try:
            async with self._watch:
                yield
        except TimeoutError:
            if self._problem is None:
                raise
            raise _Cut(self._problem) from None
        finally:
            lateness.cancel()
            self._late.discard(self._sent)
            await self.stop()

    async def stop(self) -> None:
        """Receives no more."""
        self._receiving.cancel()
        await asyncio.wait([self._receiving])

    async def receive(self) -> Message:
        """The next part of it; after its end, whatever the server says."""
        while not self._messages:
            if self._complete:
                return await self._source()
            self._news.clear()
            await self._news.wait()
        return self._messages.popleft()

    async def _receive_all(self) -> None:
        try:
            while not self._complete:
                message = await self._next()
                size = len(message.get("body", b""))
                self._late.grow(self._sent, size)
                self._hold()
                self._complete = not message.get("more_body", False)
                if size or self._complete:
                    self._messages.append(message)
                    self._news.set()
            self._late.discard(self._sent)
        except (ClearcutError, HTTPException) as problem:
            self._cut(problem)
        except Exception as error:  # the server's; the route is to fail with it
            self._cut(error)

    async def _next(self) -> Message:
        now = asyncio.get_running_loop().time()
        latest = self._deadline + self._sent.received / MIN_BYTES_PER_S
        try:
            async with asyncio.timeout_at(min(latest, now + self._timeout_s / 2)):
                return await self._source()
        except TimeoutError:
            raise UploadTimeout(
                "The upload was too slow. Try again on a better connection, or with a smaller file.",
                timeout_s=self._timeout_s,
                received_bytes=self._sent.received,
            ) from None

    def _is_late(self) -> None:
        if not self._complete:
            if self._memory is not None:
                self._memory.shrink(self._counted)
            self._late.add(self._sent)

    def _hold(self) -> None:
        if self._memory is not None and self._memory.size < self._counted:
            self._memory.grow(self._counted - self._memory.size)

    @property
    def _counted(self) -> int:
        return self._sent.received if self._sent.received > SMALL_BODY_BYTES else 0

    def _evict(self) -> None:
        self._cut(UploadTimeout("Too many slow uploads are open. Try again in a moment.", retry_after=10))

    def _cut(self, problem: Exception) -> None:
        if self._problem is None:
            self._problem = problem
            self._watch.reschedule(asyncio.get_running_loop().time())


def _memory_of(scope: Scope) -> HeldMemory | None:
    return cast(HeldMemory | None, scope.get("state", {}).get("memory"))
