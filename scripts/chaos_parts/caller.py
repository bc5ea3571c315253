"""HTTP as a good client does it: what broke is sent again, what is busy is given time. Every answer is recorded."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Collection
from typing import Any, Self

import httpx

from scripts.chaos_parts.answers import ENDED_EARLY, PLAIN, REFUSED, RESET, SILENT, Answer, Journal, Kind, error_code

TIMEOUT_S = 60.0
PATIENCE_S = 180.0
BACKOFF_S = (0.25, 2.0)
LONGEST_RETRY_AFTER_S = 5.0


class GaveUp(Exception):
    """The service did not serve a request for longer than a good client would wait, or refused it for good."""


class Caller:
    """The clients' connections to one service, and the journal of what it answered.

    Args:
        url: Of the service.
        dice: For the jitter between attempts.
        transport: Instead of the network.
    """

    def __init__(self, url: str, dice: random.Random, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.journal = Journal()
        self.underway: dict[Kind, int] = {}
        self._dice = dice
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=20)
        self.client = httpx.AsyncClient(
            base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def once(
        self, kind: Kind, method: str, path: str, *, expected: Collection[str] = (), **options: Any
    ) -> tuple[httpx.Response | None, Answer]:
        """One attempt. The response is None if there was none.

        Args:
            expected: Codes of errors that such a request may get from a healthy service.
            options: As for ``httpx.AsyncClient.request``.
        """
        with self._recording(kind) as started:
            try:
                response = await self.client.request(method, path, **options)
            except httpx.HTTPError as error:
                return None, self._record(kind, started, None, _failure(error))
            code = error_code(response)
            return response, self._record(
                kind, started, response.status_code, code, is_good=not code or code in expected
            )

    async def patiently(self, kind: Kind, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer, however often it takes.

        Raises:
            GaveUp: There was none in ``PATIENCE_S``, or an error that no repetition mends.
        """
        deadline = time.monotonic() + PATIENCE_S
        backoff = BACKOFF_S[0]
        while True:
            response, answer = await self.once(kind, method, path, **options)
            if response is not None and answer.is_good:
                return response
            may_pass = response is None or answer.code == PLAIN or response.status_code == 503
            if not may_pass or time.monotonic() > deadline:
                raise GaveUp(f"{method} {path}: {answer.label}")
            wait_s = backoff
            if response is not None and response.headers.get("Retry-After", "").isdigit():
                wait_s = min(LONGEST_RETRY_AFTER_S, float(response.headers["Retry-After"]))
            await asyncio.sleep(wait_s * self._dice.uniform(0.8, 1.2))
            backoff = min(BACKOFF_S[1], backoff * 2)

    async def events(
        self, job_id: str, after: str, expected: Collection[str] = ()
    ) -> AsyncIterator[tuple[str, str, str]]:
        """Id, name and data of the events after the one with id ``after``, until the stream ends or breaks."""
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
        with self._recording("events") as started:
            status, code = None, ENDED_EARLY
            try:
                async with self.client.stream("GET", f"/events/{job_id}", headers=headers) as response:
                    status = response.status_code
                    if response.is_error:
                        await response.aread()
                        code = error_code(response)
                        return
                    fields: dict[str, str] = {}
                    async for line in response.aiter_lines():
                        name, _, value = line.partition(":")
                        if name:
                            fields[name] = value.removeprefix(" ")
                        elif not line and "event" in fields:
                            if fields["event"] == "end":
                                code = ""
                            yield fields.get("id", ""), fields["event"], fields.get("data", "")
                            fields = {}
            except httpx.HTTPError as error:
                code = _failure(error)
            finally:
                self._record("events", started, status, code, is_good=code in ("", ENDED_EARLY, *expected))

    @contextlib.contextmanager
    def _recording(self, kind: Kind) -> Any:
        self.underway[kind] = self.underway.get(kind, 0) + 1
        try:
            yield time.monotonic()
        finally:
            self.underway[kind] -= 1

    def _record(self, kind: Kind, started_s: float, status: int | None, code: str, *, is_good: bool = False) -> Answer:
        answer = Answer(kind, started_s, time.monotonic(), status, code, is_good)
        self.journal.add(answer)
        return answer


def _failure(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return REFUSED
    return SILENT if isinstance(error, httpx.TimeoutException) else RESET
