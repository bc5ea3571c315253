"""The door: who is turned away, how, and that places and memory are free again whatever becomes of a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments import admission
from deployments.admission import Admission
from deployments.concurrency import ConcurrencyLimit
from deployments.memory_budget import MIB, MemoryBudget
from pipeline.errors import Overloaded, ReplicaDied
from scripts.benchmark_stats import parse_server_timing
from tests.deployments.conftest import OpenWorld
from tests.stub_models import PATIENCE_S, EllipseMatting, HeldMatting, encode, photo

REMOVE = "/api/background-removal/remove"
FORM = {"image": ("photo.png", encode(photo()), "image/png")}


@dataclass
class Call:
    """One ASGI call: what it is given to read, and what it sends."""

    app: Admission
    path: str = REMOVE
    headers: dict[str, str] = field(default_factory=lambda: {"content-length": str(2 * MIB)})
    method: str = "POST"
    body: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    sent: list[Message] = field(default_factory=list)
    reads: int = 0

    def start(self) -> asyncio.Task[None]:
        async def receive() -> Message:
            self.reads += 1
            return await self.body.get()

        async def send(message: Message) -> None:
            self.sent.append(message)

        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        scope = {"type": "http", "method": self.method, "path": self.path, "headers": headers}
        return asyncio.create_task(self.app(scope, receive, send))

    def has_body(self) -> None:
        self.body.put_nowait({"type": "http.request", "body": b"x", "more_body": False})

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def sent_headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}


@dataclass
class Door:
    """Admission before an application that reads the body and answers when it is told to."""

    places: ConcurrencyLimit
    memory: MemoryBudget
    app: Admission = field(init=False)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    answer: Callable[[Send], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        self.app = Admission(
            self._inner,
            places=self.places,
            memory=self.memory,
            body_limit_mb=lambda path: 10,
            is_removal=lambda path: path == REMOVE,
        )

    async def _inner(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        self.entered.set()
        await self.release.wait()
        if self.answer:
            return await self.answer(send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def call(self, **options: Any) -> Call:
        return Call(self.app, **options)

    def assert_empty(self) -> None:
        assert (self.places.in_flight, self.memory.held) == (0, 0)


@pytest.fixture
def door() -> Door:
    return Door(ConcurrencyLimit(1), MemoryBudget(8))


async def one_inside(door: Door) -> tuple[Call, asyncio.Task[None]]:
    call = door.call()
    task = call.start()
    call.has_body()
    await asyncio.wait_for(door.entered.wait(), PATIENCE_S)
    return call, task


async def test_beyond_the_limit_a_removal_is_refused_with_its_body_unread(door: Door) -> None:
    _, inside = await one_inside(door)
    refused = door.call()
    await asyncio.wait_for(refused.start(), PATIENCE_S)
    assert refused.status == 503
    assert refused.reads == 0
    assert refused.sent_headers["retry-after"] == "1"
    assert "connection" not in refused.sent_headers, "a sender in mid-body would get a reset instead of the answer"
    assert 0 <= parse_server_timing(refused.sent_headers["server-timing"])["admission"] < 100
    assert json.loads(refused.sent[1]["body"])["error_code"] == "OVERLOADED"
    door.release.set()
    await inside
    door.assert_empty()


async def test_a_refused_body_without_an_end_in_sight_ends_its_connection(door: Door) -> None:
    _, inside = await one_inside(door)
    refused = door.call(headers={"transfer-encoding": "chunked"})
    await asyncio.wait_for(refused.start(), PATIENCE_S)
    assert (refused.status, refused.sent_headers["connection"]) == (503, "close")
    door.release.set()
    await inside


async def test_the_next_one_comes_in_when_the_first_has_been_answered(door: Door) -> None:
    _, inside = await one_inside(door)
    door.release.set()
    await inside
    call, inside = await one_inside(door)
    await inside
    assert call.status == 200


async def test_what_is_no_removal_needs_no_place(door: Door) -> None:
    _, inside = await one_inside(door)
    door.release.set()
    others = [door.call(path="/segment"), door.call(method="GET", headers={})]
    for other in others:
        other.has_body()
        await asyncio.wait_for(other.start(), PATIENCE_S)
        assert other.status == 200
    await inside


@pytest.mark.parametrize(
    ("headers", "held"),
    [
        ({"content-length": str(3 * MIB)}, 3 * MIB),
        ({"transfer-encoding": "chunked"}, 10 * MIB),
        ({"content-length": "-5", "transfer-encoding": "chunked"}, 10 * MIB),
        ({"content-length": "700"}, 0),
        ({}, 0),
    ],
)
async def test_a_body_is_counted_as_it_is_declared(headers: dict[str, str], held: int) -> None:
    door = Door(ConcurrencyLimit(1), MemoryBudget(8))
    call = door.call(path="/upload", headers=headers)
    task = call.start()
    call.has_body()
    await asyncio.wait_for(door.entered.wait(), PATIENCE_S)
    assert door.memory.held == held
    door.release.set()
    await task
    door.assert_empty()


async def test_without_memory_for_its_body_an_upload_is_refused_unread_and_polls_go_on(door: Door) -> None:
    first = door.call(path="/upload", headers={"content-length": str(7 * MIB)})
    task = first.start()
    first.has_body()
    await asyncio.wait_for(door.entered.wait(), PATIENCE_S)
    second = door.call(path="/upload")
    await asyncio.wait_for(second.start(), PATIENCE_S)
    assert (second.status, second.reads) == (503, 0)
    assert "memory" in json.loads(second.sent[1]["body"])["detail"]
    door.release.set()
    poll = door.call(method="GET", path="/status/1", headers={})
    poll.has_body()
    await asyncio.wait_for(poll.start(), PATIENCE_S)
    assert poll.status == 200
    await task
    door.assert_empty()


async def test_a_client_that_goes_away_gives_everything_back(door: Door) -> None:
    _, inside = await one_inside(door)
    assert door.places.in_flight == 1
    inside.cancel()
    with pytest.raises(asyncio.CancelledError):
        await inside
    door.assert_empty()


async def test_an_application_that_fails_gives_everything_back(door: Door) -> None:
    async def fail(send: Send) -> None:
        raise RuntimeError

    door.answer = fail
    _, inside = await one_inside(door)
    door.release.set()
    with pytest.raises(RuntimeError):
        await inside
    door.assert_empty()


async def test_a_place_is_free_as_soon_as_the_answer_begins_and_memory_when_it_ends(door: Door) -> None:
    fetched = asyncio.Event()

    async def stream(send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await fetched.wait()

    door.answer = stream
    call, inside = await one_inside(door)
    door.release.set()
    while not call.sent:
        await asyncio.sleep(0)
    assert door.places.in_flight == 0
    assert door.memory.held > 0
    fetched.set()
    await inside
    door.assert_empty()


async def test_a_slow_sender_keeps_nobody_out(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "BODY_GRACE_S", 0.01)
    slow = door.call()
    waiting = slow.start()
    while slow.reads == 0 or door.places.in_flight:  # its grace ends
        await asyncio.sleep(0.001)
    _, quick = await one_inside(door)
    slow.has_body()  # now there is no place
    with pytest.raises(Overloaded):
        await asyncio.wait_for(waiting, PATIENCE_S)
    door.release.set()
    await quick
    door.assert_empty()


async def test_a_slow_sender_is_served_if_there_is_a_place_when_the_body_has_come(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "BODY_GRACE_S", 0.01)
    slow = door.call()
    waiting = slow.start()
    while slow.reads == 0 or door.places.in_flight:
        await asyncio.sleep(0.001)
    slow.has_body()
    await asyncio.wait_for(door.entered.wait(), PATIENCE_S)
    assert door.places.in_flight == 1
    door.release.set()
    await waiting
    assert slow.status == 200
    door.assert_empty()


class TestTheService:
    async def test_a_removal_too_many_gets_the_body_of_every_error(self, new_world: OpenWorld) -> None:
        matting = HeldMatting()
        async with new_world(matting=matting, max_removals_in_flight=1) as world:
            first = asyncio.create_task(world.client.post(REMOVE, files=FORM))
            await asyncio.wait_for(matting.entered.wait(), PATIENCE_S)
            refused = await world.client.post(REMOVE, files=FORM)
            assert refused.status_code == 503
            assert refused.json()["error_code"] == "OVERLOADED"
            assert refused.json()["request_id"] == refused.headers["x-request-id"]
            assert refused.headers["retry-after"] == str(refused.json()["retry_after"])
            matting.release.set()
            assert (await first).status_code == 200

    async def test_pixels_beyond_the_memory_are_refused_before_they_unpack(self, new_world: OpenWorld) -> None:
        matting = HeldMatting()
        async with new_world(matting=matting, request_memory_mb=0.3) as world:  # 90 x 120 x 26 bytes are 0.27 MiB
            first = asyncio.create_task(world.client.post(REMOVE, files=FORM))
            await asyncio.wait_for(matting.entered.wait(), PATIENCE_S)
            refused = await world.client.post(REMOVE, files=FORM)
            assert (refused.status_code, refused.json()["error_code"]) == (503, "OVERLOADED")
            matting.release.set()
            assert (await first).status_code == 200
            assert (await world.client.post(REMOVE, files=FORM)).status_code == 200

    async def test_too_large_is_told_before_too_busy(self, new_world: OpenWorld) -> None:
        async with new_world(request_memory_mb=1, birefnet_max_image_size_mb=1) as world:
            answer = await world.client.post(REMOVE, content=b"", headers={"content-length": str(2 * MIB)})
            assert answer.status_code == 413

    async def test_a_picture_that_killed_the_model_twice_is_not_tried_again(self, new_world: OpenWorld) -> None:
        class DyingMatting(EllipseMatting):
            deaths = 0

            async def alpha(self, image: Any) -> Any:
                if image[0, 0, 0] == 255:
                    self.deaths += 1
                    raise ReplicaDied("A part of the service is restarting.", retry_after=5)
                return await super().alpha(image)

        matting = DyingMatting()
        poison = photo()
        poison[:] = 255
        async with new_world(matting=matting) as world:

            async def send(pixels: Any) -> httpx.Response:
                return await world.client.post(REMOVE, files={"image": ("p.png", encode(pixels), "image/png")})

            assert (await send(poison)).json()["error_code"] == "OVERLOADED"
            again = await send(poison)
            assert (again.status_code, again.json()["error_code"]) == (400, "IMAGE_QUARANTINED")
            assert matting.deaths == 1
            assert (await send(photo())).status_code == 200
