"""Bodies as they come: deadlines, what late ones may hold, and that nobody is kept out by others' slowness."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments import body_reception
from deployments.body_reception import BodyReception, Lingering
from deployments.late_bodies import LateBodies, LateBody
from deployments.memory_budget import MIB, MemoryBudget
from tests.deployments.conftest import OpenWorld
from tests.stub_models import PATIENCE_S, HeldSegmenter, encode, photo

REMOVE = "/api/background-removal/remove"
SMALL = 64 * 1024


class Reader:
    """An application that reads the whole body, or none of it."""

    def __init__(self, *, reads: bool = True) -> None:
        self.reads = reads
        self.body = b""
        self.ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while self.reads:
                message = await receive()
                self.body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            if not self.reads:
                await asyncio.Event().wait()
        finally:
            self.ended = True
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Sender:
    """One request whose body comes as the test says."""

    def __init__(
        self, app: Any, *, address: str = "192.0.2.1", headers: dict[str, str] | None = None, memory: Any = None
    ) -> None:
        self.sent: list[Message] = []
        self._body: asyncio.Queue[Message] = asyncio.Queue()
        raw = [(k.encode(), v.encode()) for k, v in (headers or {"transfer-encoding": "chunked"}).items()]
        state = {"memory": memory} if memory else {}
        scope = {"type": "http", "method": "POST", "path": "/x", "headers": raw, "client": (address, 1), "state": state}
        self.task = asyncio.create_task(app(scope, self._body.get, self._send))

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    def give(self, body: bytes, *, last: bool = False) -> None:
        self._body.put_nowait({"type": "http.request", "body": body, "more_body": not last})

    async def end(self) -> None:
        await asyncio.wait_for(self.task, PATIENCE_S)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.sent[1]["body"])
        return found


def reception(app: Any, *, timeout_s: float = PATIENCE_S, late: LateBodies | None = None) -> BodyReception:
    late = LateBodies(MIB) if late is None else late
    return BodyReception(app, timeout_s=timeout_s, late=late, sender_of=lambda scope: str(scope["client"][0]))


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
def late_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_reception, "LATE_S", 0.0)


class TestDeadlines:
    async def test_a_body_in_time_comes_whole_and_in_order(self) -> None:
        app = Reader()
        sender = Sender(reception(app))
        for part in (b"a", b"b"):
            sender.give(part)
        sender.give(b"c", last=True)
        await sender.end()
        assert (sender.status, app.body) == (200, b"abc")

    async def test_who_sends_nothing_is_cut_off_after_half_the_time(self) -> None:
        app = Reader()
        started = time.monotonic()
        sender = Sender(reception(app, timeout_s=0.4))
        await sender.end()
        assert 0.2 <= time.monotonic() - started < PATIENCE_S / 2
        assert (sender.status, sender.told["error_code"]) == (408, "UPLOAD_TIMEOUT")
        assert sender.told["received_bytes"] == 0
        assert app.ended

    async def test_who_sends_a_byte_now_and_then_is_cut_off_too(self) -> None:
        sender = Sender(reception(Reader(), timeout_s=0.3))
        started = time.monotonic()
        while not sender.task.done():
            sender.give(b"x")
            await asyncio.sleep(0.02)
        await sender.end()
        assert sender.status == 408
        assert 0.3 <= time.monotonic() - started < PATIENCE_S / 2

    async def test_who_is_only_slow_gets_through(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(body_reception, "MIN_BYTES_PER_S", 100)
        app = Reader()
        sender = Sender(reception(app, timeout_s=0.3))
        started = time.monotonic()
        while time.monotonic() - started < 0.6:  # twice the time, and ten times the rate that is asked for
            sender.give(b"x" * 20)
            await asyncio.sleep(0.02)
        sender.give(b"", last=True)
        await sender.end()
        assert sender.status == 200
        assert len(app.body) > 300

    async def test_a_route_that_does_not_read_ends_with_its_body(self) -> None:
        app = Reader(reads=False)
        sender = Sender(reception(app, timeout_s=0.1))
        await sender.end()
        assert sender.status == 408
        assert app.ended

    async def test_a_request_without_a_body_has_no_deadline(self) -> None:
        app = Reader(reads=False)
        sender = Sender(reception(app, timeout_s=0.01), headers={"content-length": "0"})
        await asyncio.sleep(0.1)
        assert not sender.task.done()
        sender.task.cancel()

    async def test_a_client_that_goes_away_is_told_to_the_route(self) -> None:
        app = Reader()
        sender = Sender(reception(app))
        sender._body.put_nowait({"type": "http.disconnect"})
        await sender.end()
        assert app.body == b""

    async def test_who_cancels_the_request_ends_it(self) -> None:
        app = Reader()
        sender = Sender(reception(app))
        sender.give(b"x")
        await until(lambda: app.body)
        sender.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sender.task
        assert app.ended


@pytest.mark.usefixtures("late_at_once")
class TestLateBodies:
    async def test_a_late_body_holds_only_what_it_has_sent(self) -> None:
        budget = MemoryBudget(10)
        memory = budget.hold(8 * MIB)
        late = LateBodies(5 * MIB)
        sender = Sender(reception(Reader(), late=late), memory=memory)
        await until(lambda: len(late))
        assert budget.held == 0
        sender.give(bytes(2 * MIB))
        await until(lambda: budget.held == 2 * MIB)
        sender.give(b"x", last=True)
        await sender.end()
        assert sender.status == 200
        assert len(late) == 0

    async def test_a_late_body_that_finds_no_memory_is_told_to_come_again(self) -> None:
        budget = MemoryBudget(1)
        late = LateBodies(5 * MIB)
        sender = Sender(reception(Reader(), late=late), memory=budget.hold(MIB))
        await until(lambda: len(late))
        other = budget.hold(MIB)
        sender.give(bytes(SMALL + 1))
        await sender.end()
        assert (sender.status, sender.told["error_code"]) == (503, "OVERLOADED")
        other.release()

    async def test_too_many_push_out_the_slowest_of_the_greediest(self) -> None:
        late = LateBodies(MIB, max_count=3)
        app = reception(Reader(), late=late)
        honest = Sender(app, address="192.0.2.7")
        honest.give(b"x")
        slow = Sender(app)
        quick = Sender(app)
        quick.give(bytes(1000))
        await until(lambda: len(late) == 3)
        more = Sender(app)
        more.give(bytes(1000))
        await slow.end()
        assert (slow.status, slow.told["error_code"]) == (408, "UPLOAD_TIMEOUT")
        assert slow.told["retry_after"] == 10
        for sender in (honest, quick, more):
            sender.give(b"", last=True)
            await sender.end()
            assert sender.status == 200

    async def test_too_much_memory_pushes_out_who_holds_most(self) -> None:
        late = LateBodies(1000)
        app = reception(Reader(), late=late)
        honest = Sender(app, address="192.0.2.7")
        honest.give(bytes(300))
        greedy = Sender(app)
        greedy.give(bytes(600))
        await until(lambda: len(late) == 2)
        greedy.give(bytes(200))
        await greedy.end()
        assert greedy.status == 408
        honest.give(b"", last=True)
        await honest.end()
        assert honest.status == 200


def test_what_the_late_hold_is_counted_exactly() -> None:
    late = LateBodies(100)
    cut: list[str] = []
    bodies = [LateBody(name, lambda name=name: cut.append(name)) for name in "abc"]  # type: ignore[misc]
    late.grow(bodies[0], 90)  # not late yet
    late.add(bodies[1])
    late.grow(bodies[1], 60)
    late.add(bodies[0])
    assert cut == ["a"]
    late.add(bodies[2])
    late.grow(bodies[2], 40)
    assert cut == ["a"]
    late.discard(bodies[1])
    late.discard(bodies[1])
    late.grow(bodies[2], 60)
    assert cut == ["a"]
    assert len(late) == 1


class TestLingering:
    async def test_a_sender_cut_off_may_read_its_answer(self) -> None:
        async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 413, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})

        sender = Sender(Lingering(refuses))
        await until(lambda: len(sender.sent) == 2)
        assert (b"connection", b"close") in sender.sent[0]["headers"]
        assert sender.sent[1] == {"type": "http.response.body", "body": b"no", "more_body": True}
        assert not sender.task.done()
        sender.give(b"x")
        sender.give(b"x", last=True)
        await sender.end()
        assert sender.sent[2] == {"type": "http.response.body", "body": b""}

    async def test_it_waits_neither_for_ever_nor_for_everything(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(body_reception, "LINGER_S", 0.05)
        app = Lingering(reception(Reader(), timeout_s=0.05))
        silent = Sender(app)
        await silent.end()
        assert silent.status == 408
        monkeypatch.setattr(body_reception, "LINGER_S", PATIENCE_S)
        monkeypatch.setattr(body_reception, "LINGER_BYTES", 10)
        endless = Sender(app)
        await until(lambda: endless.sent)
        endless.give(bytes(10))
        await endless.end()

    async def test_a_refusal_with_a_known_length_keeps_the_connection(self) -> None:
        async def busy(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})

        sender = Sender(Lingering(busy), headers={"content-length": "100"})
        await sender.end()
        assert sender.sent[0]["headers"] == []


class TestTheService:
    async def test_a_slow_upload_is_told_with_the_body_of_every_error(self, new_world: OpenWorld) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b"--b\r\n"
            await asyncio.Event().wait()

        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        async with new_world(upload_timeout_s=0.2) as world:
            for path in (REMOVE, "/upload", "/segment"):
                answer = await world.client.post(path, content=body(), headers=headers)
                assert (answer.status_code, answer.json()["error_code"]) == (408, "UPLOAD_TIMEOUT"), path
                assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
                assert answer.headers["connection"] == "close"

    @pytest.mark.usefixtures("late_at_once")
    async def test_hundreds_of_slow_senders_keep_nobody_out(self, new_world: OpenWorld) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b"--b\r\n"
            await asyncio.Event().wait()

        headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(9 * MIB)}
        picture = {"image": ("p.png", encode(photo()), "image/png")}
        async with new_world(request_memory_mb=64, max_removals_in_flight=2) as world:
            slow = []
            for _ in range(200):
                slow.append(asyncio.create_task(world.client.post(REMOVE, content=body(), headers=headers)))
            for _ in range(100):  # those let in become late at once, and give their room back after a second
                await asyncio.sleep(0.02)
                answer = await world.client.post(REMOVE, files=picture)
                if answer.status_code == 200:
                    break
            assert answer.status_code == 200
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    async def test_a_route_that_takes_no_body_keeps_the_limit_of_bodies_too(self, new_world: OpenWorld) -> None:
        async def body() -> AsyncIterator[bytes]:
            while True:
                yield bytes(SMALL)

        segmenter = HeldSegmenter()
        async with new_world(segmenter=segmenter) as world:
            job_id = await world.upload()
            points = {"job_id": job_id, "coordinates_list": [[40, 40]]}
            assert (await world.client.post("/segment", json=points)).status_code == 200
            answer = await world.client.request("GET", f"/status/{job_id}?wait=60", content=body())
            assert (answer.status_code, answer.json()["error_code"]) == (413, "FILE_TOO_LARGE")
            segmenter.release.set()
