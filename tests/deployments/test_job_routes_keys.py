"""``Idempotency-Key``: what is sent again is done once, and what is another request is told so."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import httpx
import pytest

from pipeline.errors import StorageUnavailable
from tests.deployments.conftest import OpenWorld
from tests.deployments.test_job_routes import assert_error
from tests.deployments.world import World
from tests.stub_models import PATIENCE_S, encode, photo

KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"


async def upload(client: httpx.AsyncClient, key: str | None = KEY, data: bytes | None = None) -> httpx.Response:
    files = {"file": ("photo.png", encode(photo()) if data is None else data, "image/png")}
    return await client.post("/upload", files=files, headers={"Idempotency-Key": key} if key is not None else {})


async def segment(client: httpx.AsyncClient, key: str = KEY, **body: Any) -> httpx.Response:
    return await client.post("/segment", json=body, headers={"Idempotency-Key": key})


def folders(world: World) -> list[str]:
    return [path.name for path in world.folder.glob("jobs/*")]


class HeldWrites:
    """Writes of ``original.png`` that wait, each for its own release; ``entered`` tells how many came."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.entered = [asyncio.Event() for _ in range(count)]
        self.release = [threading.Event() for _ in range(count)]
        self.fails = [False] * count
        self.done = 0
        self._calls = iter(range(count))
        self._loop = asyncio.get_running_loop()
        self._write = world.artifacts.write
        monkeypatch.setattr(world.artifacts, "write", self.write)

    def write(self, job_id: str, name: str, data: bytes) -> None:
        call = next(self._calls, None)
        if call is None:
            return self._write(job_id, name, data)
        self._loop.call_soon_threadsafe(self.entered[call].set)
        assert self.release[call].wait(PATIENCE_S)
        self._write(job_id, name, data)
        self.done += 1
        if self.fails[call]:
            raise StorageUnavailable("The files cannot be reached now.", retry_after=5)

    async def wait_for(self, call: int) -> None:
        await asyncio.wait_for(self.entered[call].wait(), PATIENCE_S)


class TestUpload:
    async def test_the_same_upload_with_the_same_key_is_one_job(self, world: World) -> None:
        first, second = await upload(world.client), await upload(world.client)
        assert first.status_code == second.status_code == 200
        assert first.json() == second.json()
        assert folders(world) == [first.json()["job_id"]]

    async def test_uploads_without_a_key_are_jobs_of_their_own(self, world: World) -> None:
        first, second = await upload(world.client, None), await upload(world.client, None)
        assert first.json()["job_id"] != second.json()["job_id"]

    async def test_another_key_is_another_job(self, world: World) -> None:
        first, second = await upload(world.client, "a"), await upload(world.client, "b")
        assert first.json()["job_id"] != second.json()["job_id"]

    async def test_the_key_of_another_file_is_refused(self, world: World) -> None:
        await upload(world.client)
        other = await upload(world.client, data=encode(255 - photo()))
        assert_error(other, 422, "IDEMPOTENCY_KEY_REUSED")
        assert len(folders(world)) == 1

    async def test_the_answer_stays_the_same_while_the_job_goes_on(self, world: World) -> None:
        first = await upload(world.client)
        await world.segment(first.json()["job_id"], [60, 45])
        assert (await upload(world.client)).json() == first.json()

    async def test_a_key_holds_after_a_restart(self, new_world: OpenWorld) -> None:
        async with new_world() as world:
            first = await upload(world.client)
        async with new_world() as world:
            assert (await upload(world.client)).json() == first.json()

    async def test_a_deleted_jobs_key_is_free_again(self, world: World) -> None:
        first = (await upload(world.client)).json()["job_id"]
        await world.client.delete(f"/cleanup/{first}")
        second = await upload(world.client, data=encode(255 - photo()))
        assert second.json()["job_id"] != first

    async def test_a_refused_upload_does_not_use_its_key_up(self, world: World) -> None:
        assert_error(await upload(world.client, data=b"no picture"), 400, "INVALID_IMAGE")
        assert (await upload(world.client)).status_code == 200

    async def test_a_retry_takes_over_the_job_that_is_still_written(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = HeldWrites(world, monkeypatch, 2)
        first = asyncio.create_task(upload(world.client))
        await held.wait_for(0)
        second = asyncio.create_task(upload(world.client))
        await held.wait_for(1)
        held.release[1].set()
        answers = [await second]
        held.release[0].set()
        answers.append(await first)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].json() == answers[1].json()
        assert folders(world) == [answers[0].json()["job_id"]]

    async def test_a_retry_outlives_the_failure_of_the_request_it_repeats(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first gives its job up while the second, which shares it, still writes."""
        held = HeldWrites(world, monkeypatch, 2)
        held.fails[0] = True
        first = asyncio.create_task(upload(world.client))
        await held.wait_for(0)
        second = asyncio.create_task(upload(world.client))
        await held.wait_for(1)
        held.release[0].set()
        assert_error(await first, 503, "STORAGE_UNAVAILABLE")
        held.release[1].set()
        job_id = (await second).json()["job_id"]
        assert folders(world) == [job_id]
        assert (await world.download(job_id, "original.png")).shape == (90, 120, 3)

    async def test_the_failure_of_the_first_leaves_the_job_that_its_retry_finished(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = HeldWrites(world, monkeypatch, 2)
        held.fails[0] = True
        first = asyncio.create_task(upload(world.client))
        await held.wait_for(0)
        second = asyncio.create_task(upload(world.client))
        await held.wait_for(1)
        held.release[1].set()
        job_id = (await second).json()["job_id"]
        held.release[0].set()
        assert (await first).status_code == 503
        assert (await world.download(job_id, "original.png")).shape == (90, 120, 3)

    async def test_a_client_that_goes_away_leaves_nothing_behind(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = HeldWrites(world, monkeypatch, 1)
        request = asyncio.create_task(upload(world.client))
        await held.wait_for(0)
        request.cancel()
        await asyncio.sleep(0)
        held.release[0].set()
        with contextlib.suppress(asyncio.CancelledError):
            await request
        assert held.done == 1
        assert folders(world) == []
        assert world.store.used_bytes() == 0


class TestSegment:
    async def test_the_same_request_with_the_same_key_runs_once(self, world: World) -> None:
        body = {"job_id": await world.upload(), "coordinates_list": [[60, 45]]}
        first = await segment(world.client, **body)
        await world.store.ended(body["job_id"])
        second = await segment(world.client, **body)
        assert first.json() == second.json()
        assert (await world.services.jobs.get(body["job_id"])).record.run == 1

    async def test_a_repeat_while_the_job_runs_is_no_conflict(self, world: World) -> None:
        body = {"job_id": await world.upload(), "coordinates_list": [[60, 45]]}
        answers = await asyncio.gather(*(segment(world.client, **body) for _ in range(5)))
        assert {answer.status_code for answer in answers} == {200}
        await world.store.ended(body["job_id"])

    async def test_another_key_runs_again(self, world: World) -> None:
        body = {"job_id": await world.upload(), "coordinates_list": [[60, 45]]}
        for key in ("a", "b"):
            await segment(world.client, key, **body)
            await world.store.ended(body["job_id"])
        assert (await world.services.jobs.get(body["job_id"])).record.run == 2

    @pytest.mark.parametrize(
        "spelling",
        [
            {"coordinates_list": [[60.0, 45]]},
            {"coordinates_list": [[[60, 45]]]},
            {"coordinates_list": [[60, 45]], "labels": [1]},
            {"coordinates_list": [[[60, 45]]], "labels": [[1]]},
        ],
        ids=str,
    )
    async def test_the_same_work_in_another_spelling_is_the_same_request(
        self, world: World, spelling: dict[str, Any]
    ) -> None:
        job_id = await world.upload()
        await segment(world.client, job_id=job_id, coordinates_list=[[60, 45]])
        await world.store.ended(job_id)
        assert (await segment(world.client, job_id=job_id, **spelling)).status_code == 200
        assert (await world.services.jobs.get(job_id)).record.run == 1

    async def test_the_same_work_in_the_query_is_the_same_request(self, world: World) -> None:
        job_id = await world.upload()
        await segment(world.client, job_id=job_id, coordinates_list=[[60, 45]])
        await world.store.ended(job_id)
        query = f"/segment?job_id={job_id}&coordinates_list=[[60,45]]"
        assert (await world.client.post(query, headers={"Idempotency-Key": KEY})).status_code == 200
        assert (await world.services.jobs.get(job_id)).record.run == 1

    @pytest.mark.parametrize(
        "change",
        [
            {"coordinates_list": [[61, 45]]},
            {"coordinates_list": [[60, 45], [61, 45]]},
            {"coordinates_list": [[[60, 45], [61, 45]]], "labels": [[1, 0]]},
            {"callback_url": "https://hooks.example.com/"},
        ],
        ids=str,
    )
    async def test_the_key_of_other_work_is_refused(self, new_world: OpenWorld, change: dict[str, Any]) -> None:
        async with new_world(callback_hosts="hooks.example.com", callback_secret="secret") as world:
            body = {"job_id": await world.upload(), "coordinates_list": [[60, 45]]}
            await segment(world.client, **body)
            await world.store.ended(body["job_id"])
            assert_error(await segment(world.client, **{**body, **change}), 422, "IDEMPOTENCY_KEY_REUSED")

    async def test_the_key_of_another_job_is_refused(self, world: World) -> None:
        first, second = await world.upload(), await world.upload()
        await segment(world.client, job_id=first, coordinates_list=[[60, 45]])
        await world.store.ended(first)
        answer = await segment(world.client, job_id=second, coordinates_list=[[60, 45]])
        assert_error(answer, 422, "IDEMPOTENCY_KEY_REUSED")

    async def test_one_key_may_name_an_upload_and_its_work(self, world: World) -> None:
        job_id = (await upload(world.client)).json()["job_id"]
        assert (await segment(world.client, job_id=job_id, coordinates_list=[[60, 45]])).status_code == 200
        await world.store.ended(job_id)


class TestKeys:
    @pytest.mark.parametrize("key", ["", "x" * 256, "two words", "tab\tin", "kéy".encode("latin-1")], ids=ascii)
    async def test_what_is_no_key_is_refused_with_the_headers_name(self, world: World, key: Any) -> None:
        for answer in (
            await upload(world.client, key),
            await segment(world.client, key, job_id=await world.upload(), coordinates_list=[[60, 45]]),
        ):
            body = assert_error(answer, 422, "INVALID_REQUEST")
            assert body["errors"][0]["field"] == "Idempotency-Key"

    async def test_255_visible_characters_are_taken(self, world: World) -> None:
        key = "".join(chr(0x21 + i % 94) for i in range(255))
        first, second = await upload(world.client, key), await upload(world.client, key)
        assert first.json()["job_id"] == second.json()["job_id"]
