"""A good client against a server that breaks off, refuses, and tells it to wait."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from scripts.chaos_parts import caller as caller_module
from scripts.chaos_parts.caller import Caller, GaveUp

BUSY = '{"detail": "Busy.", "error_code": "OVERLOADED", "request_id": "1"}'
GONE = '{"detail": "Job not found", "error_code": "JOB_NOT_FOUND", "request_id": "1"}'


def answer(status: int, body: str = "{}", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Told", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


@contextlib.asynccontextmanager
async def server(answers: Sequence[bytes]) -> AsyncIterator[Caller]:
    """Gives one answer per connection and then closes it; an empty one is a broken connection."""
    left = list(answers)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(left.pop(0))
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, Caller(f"http://127.0.0.1:{port}", random.Random(1)) as caller:
        yield caller
    assert not left, "every answer was asked for"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_module, "BACKOFF_S", (0.01, 0.02))


async def test_what_broke_or_was_busy_is_sent_again_and_every_answer_is_recorded() -> None:
    told = [b"", answer(500, "Internal Server Error"), answer(503, BUSY, "Retry-After: 0"), answer(200)]
    async with server(told) as caller:
        response = await caller.patiently("upload", "GET", "/")
    assert response.status_code == 200
    assert [a.label for a in caller.journal.answers] == ["reset", "500 plain", "503 OVERLOADED", "200"]
    assert [a.is_good for a in caller.journal.answers] == [False, False, False, True]


async def test_nobody_listening_is_told_apart_from_a_broken_connection() -> None:
    async with server([]) as caller:
        pass
    async with Caller(str(caller.client.base_url), random.Random(1)) as late:
        response, refused = await late.once("remove", "GET", "/")
    assert (response, refused.code) == (None, "refused")


async def test_an_error_of_ours_that_does_not_pass_is_given_up() -> None:
    async with server([answer(404, GONE)]) as caller:
        with pytest.raises(GaveUp, match="404 JOB_NOT_FOUND"):
            await caller.patiently("status", "GET", "/status/1")


async def test_an_expected_error_is_an_answer() -> None:
    async with server([answer(404, GONE)]) as caller:
        response = await caller.patiently("cleanup", "DELETE", "/cleanup/1", expected={"JOB_NOT_FOUND"})
    assert response.status_code == 404
    assert caller.journal.answers[0].is_good


async def test_a_service_that_stays_busy_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_module, "PATIENCE_S", 0)
    async with server([answer(503, BUSY)]) as caller:
        with pytest.raises(GaveUp, match="503 OVERLOADED"):
            await caller.patiently("upload", "GET", "/")


def stream(*lines: str) -> bytes:
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return (head + "".join(f"{line}\n" for line in lines)).encode()


async def test_events_are_read_until_the_end_and_comments_are_not_events() -> None:
    lines = ["event: stage", "data: {}", "id: 1", "", ": ping", "", "event: end", 'data: {"a": 1}', "id: 2", ""]
    async with server([stream(*lines)]) as caller:
        events = [event async for event in caller.events("1", "")]
    assert events == [("1", "stage", "{}"), ("2", "end", '{"a": 1}')]
    assert [a.label for a in caller.journal.answers] == ["200"]


async def test_a_stream_that_closes_before_the_end_is_recorded_so() -> None:
    async with server([stream("event: stage", "data: {}", "id: 1", "")]) as caller:
        assert len([event async for event in caller.events("1", "")]) == 1
    assert [a.label for a in caller.journal.answers] == ["200 ended early"]
