"""The limits in front of an application: what is counted, what is refused and how, and when a place is free again."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Scope

from deployments.client_address import TrustedProxies
from deployments.clients import Client
from deployments.errors import install_error_handlers
from deployments.identification import Identification
from deployments.limits.answers import headers
from deployments.limits.limiter import Verdict
from deployments.limits.middleware import WorkLimits, visit_of
from deployments.limits.tiers import COSTS, TIERS, Allowance, cost_of
from deployments.limits.visits import Limits
from deployments.middleware import RequestContext
from pipeline.errors import JobBusy

REMOVE = "/api/background-removal/remove"


class Work:
    """What the routes do: they wait for ``go``, and count who is at work."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.begun = 0
        self.body_read = False
        self.error: Exception = RuntimeError("a bug")


async def nobody(key: str) -> None:
    return None


def create(limits: Limits, work: Work) -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)

    @app.post(REMOVE)
    async def remove(request: Request) -> dict[str, bool]:
        work.begun += 1
        await request.body()
        work.body_read = True
        await work.go.wait()
        return {"done": True}

    @app.post("/upload")
    async def fail() -> None:
        raise work.error

    @app.post("/segment")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"1"
            await work.go.wait()
            yield b"2"

        return StreamingResponse(parts())

    @app.post("/charge/{units}")
    async def charge(units: int, request: Request) -> dict[str, bool]:
        visit = visit_of(request)
        assert visit is not None
        await visit.charge(units)
        return {"done": True}

    @app.get("/status/{job_id}")
    async def status(job_id: str) -> dict[str, str]:
        return {"job_id": job_id}

    app.add_middleware(WorkLimits, limits=limits)
    app.add_middleware(Identification, proxies=TrustedProxies("127.0.0.1"), find_key=nobody)
    app.add_middleware(RequestContext)
    return app


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def limits() -> Limits:
    return Limits(per_minute=30)


@pytest.fixture
async def client(limits: Limits, work: Work) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create(limits, work), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://clearcut") as opened:
        yield opened


async def at_work(limits: Limits) -> int | None:
    return (await limits.standing(Client("127.0.0.1"))).at_work


async def test_the_thirty_first_request_of_a_minute_is_refused(client: httpx.AsyncClient) -> None:
    answers = [await client.post(REMOVE) for _ in range(31)]

    assert [answer.status_code for answer in answers] == [200] * 30 + [429]
    body = answers[-1].json()
    request_id = body.pop("request_id")
    reset_at = datetime.strptime(body.pop("limit_reset_at"), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    assert body == {
        "detail": "Rate limit exceeded: 30 requests per minute",
        "error_code": "RATE_LIMIT_EXCEEDED",
        "retry_after_seconds": 60,
        "requests_remaining": 0,
    }
    assert request_id == answers[-1].headers["x-request-id"]
    assert time.time() + 50 < reset_at < time.time() + 62
    assert answers[-1].headers["retry-after"] == "60"


async def test_every_answer_of_limited_routes_tells_where_the_client_stands(client: httpx.AsyncClient) -> None:
    await client.post(REMOVE)
    told = (await client.post(REMOVE)).headers

    assert told["ratelimit-policy"] == '"minute";q=30;w=60, "at-once";q=3;qu="concurrent-requests"'
    assert re.fullmatch(r'"minute";r=28;t=(59|60)', told["ratelimit"])
    assert (told["x-ratelimit-limit"], told["x-ratelimit-remaining"]) == ("30", "28")
    assert 55 < int(told["x-ratelimit-reset"]) - time.time() < 62
    assert "retry-after" not in told


async def test_refusals_of_the_route_tell_it_too(client: httpx.AsyncClient, work: Work) -> None:
    work.error = JobBusy("It is busy.")

    answer = await client.post("/upload")

    assert (answer.status_code, answer.headers["x-ratelimit-remaining"]) == (409, "29")


async def test_free_routes_neither_count_nor_tell(client: httpx.AsyncClient) -> None:
    for _ in range(40):
        answer = await client.get("/status/7")
        assert answer.status_code == 200
        assert "ratelimit" not in answer.headers

    assert (await client.post(REMOVE)).headers["x-ratelimit-remaining"] == "29"


async def test_the_fourth_at_once_is_refused_until_one_ends(
    client: httpx.AsyncClient, work: Work, limits: Limits
) -> None:
    work.go.clear()
    three = [asyncio.create_task(client.post(REMOVE)) for _ in range(3)]
    while work.begun < 3:
        await asyncio.sleep(0)

    fourth = await client.post(REMOVE)

    assert fourth.status_code == 429
    assert fourth.json()["detail"] == "Rate limit exceeded: 3 requests at once"
    assert (fourth.json()["requests_remaining"], fourth.headers["retry-after"]) == (27, "1")
    work.go.set()
    assert [(await answer).status_code for answer in three] == [200] * 3
    assert (await client.post(REMOVE)).status_code == 200
    assert await at_work(limits) == 0


async def test_clients_behind_a_trusted_proxy_are_told_apart(client: httpx.AsyncClient) -> None:
    for _ in range(31):
        answer = await client.post(REMOVE, headers={"X-Forwarded-For": "2001:db8::1"})
    same_network = await client.post(REMOVE, headers={"X-Forwarded-For": "2001:db8::2"})
    other = await client.post(REMOVE, headers={"X-Forwarded-For": "203.0.113.9"})

    assert [answer.status_code, same_network.status_code, other.status_code] == [429, 429, 200]


@pytest.mark.parametrize(("framing", "connection"), [(b"content-length", None), (b"transfer-encoding", b"close")])
async def test_the_body_of_a_refused_request_is_not_read(
    limits: Limits, work: Work, framing: bytes, connection: bytes | None
) -> None:
    app = create(limits, work)
    await limits._limiter.charge("192.0.2.1", Allowance(30, 3), cost=30)
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("The body was asked for.")

    async def send(message: Message) -> None:
        sent.append(message)

    await app({**_request(REMOVE), "headers": [(framing, b"1000000")]}, receive, send)

    told = dict(sent[0]["headers"])
    assert (sent[0]["status"], told.get(b"connection")) == (429, connection)


async def test_a_client_that_goes_away_leaves_its_place(limits: Limits, work: Work) -> None:
    work.go.clear()
    app = create(limits, work)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        raise AssertionError("Nobody is there.")

    running = asyncio.create_task(app(_request(REMOVE), receive, send))
    while not work.body_read:
        await asyncio.sleep(0)
    assert (await limits.standing(Client("192.0.2.1"))).at_work == 1

    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running

    assert (await limits.standing(Client("192.0.2.1"))).at_work == 0


async def test_the_place_is_free_before_the_client_sees_the_end(limits: Limits, work: Work) -> None:
    taken: list[int | None] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            taken.append((await limits.standing(Client("192.0.2.1"))).at_work)

    await create(limits, work)(_request("/segment"), receive, send)

    assert taken == [1, 1, 0]


async def test_a_route_that_fails_leaves_its_place(client: httpx.AsyncClient, limits: Limits) -> None:
    assert (await client.post("/upload")).status_code == 500

    assert await at_work(limits) == 0


async def test_a_line_feed_in_the_path_is_no_way_around(client: httpx.AsyncClient) -> None:
    for _ in range(31):
        answer = await client.post("/segment%0A")

    assert answer.status_code == 429


async def test_limits_that_are_off_count_nothing(work: Work) -> None:
    transport = httpx.ASGITransport(create(Limits(per_minute=0), work))
    async with httpx.AsyncClient(transport=transport, base_url="http://clearcut") as client:
        answers = await asyncio.gather(*(client.post(REMOVE) for _ in range(60)))

    assert {answer.status_code for answer in answers} == {200}
    assert "ratelimit" not in answers[0].headers


async def test_a_route_charges_a_batch_all_or_nothing(
    client: httpx.AsyncClient, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    for units in (20, 11, 40):
        monkeypatch.setitem(COSTS, ("POST", f"/charge/{units}"), 0)

    first, second = await client.post("/charge/20"), await client.post("/charge/11")
    huge = await client.post("/charge/40")

    assert (first.status_code, first.headers["x-ratelimit-remaining"]) == (200, "10")
    assert (second.status_code, second.json()["requests_remaining"], second.headers["retry-after"]) == (429, 10, "60")
    assert "this batch has 40" in huge.json()["detail"]
    assert await at_work(limits) == 0


async def test_long_requests_keep_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.limits.visits.HELD_S", 0.01)
    limits = Limits()
    renewed: list[dict[str, list[str]]] = []
    both = asyncio.Event()

    async def renew(held: dict[str, set[str]]) -> None:
        renewed.append({who: sorted(places) for who, places in held.items()})
        if len(renewed) == 1:
            raise RuntimeError("once")
        if {} not in renewed[-1:]:
            both.set()

    monkeypatch.setattr(limits._limiter, "renew", renew)
    async with limits.running(), asyncio.timeout(10):
        visit = await limits.enter(Client("192.0.2.1"), cost=1)
        await both.wait()
        assert renewed[-1] == {"192.0.2.1": [visit._place]}
        await visit.leave()
        while renewed[-1]:
            await asyncio.sleep(0.001)


def test_every_tier_allows_what_the_decisions_say() -> None:
    assert {tier: (it.per_minute, it.at_once) for tier, it in TIERS.items()} == {
        "free": (30, 3),
        "basic": (100, 10),
        "pro": (1000, 50),
    }


def test_only_work_costs() -> None:
    assert {key: cost_of(*key) for key in COSTS} == {
        ("POST", "/api/background-removal/remove"): 1,
        ("POST", "/upload"): 1,
        ("POST", "/segment"): 1,
    }
    assert cost_of("GET", "/upload") is None


def test_a_reset_in_the_past_is_now() -> None:
    told = headers(Verdict(None, Allowance(30, 3), remaining=30, reset_at=99.5), now=100.0)

    assert (told["RateLimit"], told["X-RateLimit-Reset"]) == ('"minute";r=30;t=0', "100")


def _request(path: str) -> Scope:
    return {
        "type": "http",
        "asgi": {"spec_version": "2.4"},  # send() tells of a client that went away
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-length", b"1000000")],
        "client": ("192.0.2.1", 1),
    }
