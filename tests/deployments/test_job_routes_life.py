"""The life of a job over HTTP: waiting for it, its place in the queue, cancelling it, callbacks, runs side by side."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from deployments.callbacks import sender as sender_module
from deployments.callbacks.rules import CallbackRules
from deployments.callbacks.sender import CallbackSender
from deployments.ingress import create_app
from deployments.seats import Seats
from tests.callback_receiver import plain, receiving
from tests.deployments.conftest import OpenWorld
from tests.deployments.test_job_routes import assert_error, segment, status
from tests.deployments.world import World
from tests.http_service import serving
from tests.stub_models import PATIENCE_S, HeldSegmenter

POINT = [[60, 45]]


@asynccontextmanager
async def one_at_a_time(new_world: OpenWorld) -> AsyncIterator[tuple[World, HeldSegmenter]]:
    """A service that works on one job at once, and on none before ``release``."""
    segmenter = HeldSegmenter()
    async with new_world(segmenter=segmenter, max_running_jobs=1) as world:
        yield world, segmenter


async def begin(world: World, segmenter: HeldSegmenter) -> str:
    """A job that is being worked on."""
    job_id = await world.upload()
    await segment(world.client, job_id, POINT)
    await asyncio.wait_for(segmenter.entered.wait(), PATIENCE_S)
    return job_id


async def queue(world: World) -> str:
    """A job that waits behind it."""
    job_id = await world.upload()
    await segment(world.client, job_id, POINT)
    return job_id


class TestCancel:
    async def test_a_waiting_job_is_canceled_and_the_next_moves_up(self, new_world: OpenWorld) -> None:
        async with one_at_a_time(new_world) as (world, segmenter):
            running = await begin(world, segmenter)
            first, second = await queue(world), await queue(world)
            body = (await world.client.post(f"/cancel/{first}")).json()
            assert (body["job_id"], body["status"], body["files"]) == (first, "canceled", ["original.png"])
            assert (await status(world.client, second))["queue_position"] == 1
            segmenter.release.set()
            assert (await world.store.ended(second)).state == "ready"
            assert (await world.store.ended(running)).state == "ready"
            assert (await status(world.client, first))["status"] == "canceled"
        assert len(segmenter.prompts) == 2

    async def test_a_running_job_stops_and_what_it_made_is_gone(self, new_world: OpenWorld) -> None:
        async with one_at_a_time(new_world) as (world, segmenter):
            job_id = await begin(world, segmenter)
            assert (await world.client.post(f"/cancel/{job_id}")).json()["status"] == "canceled"
            assert segmenter.inside == 0
            assert [path.name for path in world.folder.glob("jobs/*/*")] == ["original.png"]

    async def test_a_canceled_job_can_be_segmented_again(self, world: World) -> None:
        job_id = await world.upload()
        assert (await world.client.post(f"/cancel/{job_id}")).json()["status"] == "canceled"
        assert (await world.segment(job_id, [60, 45])).state == "ready"

    async def test_a_finished_job_is_409(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        assert_error(await world.client.post(f"/cancel/{job_id}"), 409, "JOB_FINISHED")
        assert (await status(world.client, job_id))["status"] == "ready"

    async def test_a_canceled_job_is_409(self, world: World) -> None:
        job_id = await world.upload()
        await world.client.post(f"/cancel/{job_id}")
        assert_error(await world.client.post(f"/cancel/{job_id}"), 409, "JOB_FINISHED")

    async def test_an_unknown_job_is_404(self, client: httpx.AsyncClient) -> None:
        assert_error(await client.post(f"/cancel/{'0' * 32}"), 404, "JOB_NOT_FOUND")


class TestQueue:
    async def test_a_waiting_job_knows_its_place(self, new_world: OpenWorld) -> None:
        async with one_at_a_time(new_world) as (world, segmenter):
            running = await begin(world, segmenter)
            waiting = [await queue(world) for _ in range(3)]
            places = [(await status(world.client, job_id))["queue_position"] for job_id in waiting]
            assert places == [1, 2, 3]
            assert "queue_position" not in await status(world.client, running)
            segmenter.release.set()
            for job_id in waiting:
                await world.store.ended(job_id)
                assert not {"queue_position", "estimated_wait_s"} & set(await status(world.client, job_id))

    async def test_once_jobs_have_run_a_waiting_one_knows_how_long(self, new_world: OpenWorld) -> None:
        async with one_at_a_time(new_world) as (world, segmenter):
            segmenter.release.set()
            await world.segment(await world.upload(), [60, 45])
            segmenter.release.clear()
            segmenter.entered.clear()
            await begin(world, segmenter)
            bodies = [await status(world.client, await queue(world)) for _ in range(2)]
            assert 0 < bodies[0]["estimated_wait_s"] < bodies[1]["estimated_wait_s"]
            segmenter.release.set()


class TestWait:
    async def test_the_answer_comes_when_the_job_has_ended(self, new_world: OpenWorld) -> None:
        async with one_at_a_time(new_world) as (world, segmenter):
            job_id = await begin(world, segmenter)
            answer = asyncio.create_task(world.client.get(f"/status/{job_id}?wait=60"))
            while not world.services.long_polls.taken:
                await asyncio.sleep(0.005)
            assert not answer.done()
            segmenter.release.set()
            body = (await asyncio.wait_for(answer, PATIENCE_S)).json()
            assert (body["status"], body["progress"]) == ("ready", 100)
            assert world.services.long_polls.taken == 0

    async def test_the_answer_comes_when_the_time_is_up(self, new_world: OpenWorld) -> None:
        async with one_at_a_time(new_world) as (world, segmenter):
            job_id = await begin(world, segmenter)
            loop = asyncio.get_running_loop()
            started = loop.time()
            body = (await world.client.get(f"/status/{job_id}?wait=0.3")).json()
            assert body["status"] == "processing"
            assert 0.3 <= loop.time() - started < PATIENCE_S / 2

    async def test_a_job_that_is_not_processing_is_not_waited_for(self, world: World) -> None:
        job_id = await world.upload()
        answer = await asyncio.wait_for(world.client.get(f"/status/{job_id}?wait=60"), PATIENCE_S)
        assert answer.json()["status"] == "uploaded"

    @pytest.mark.parametrize("wait", ["61", "-1", "nan", "inf", "x", ""])
    async def test_a_wait_out_of_bounds_is_refused(self, world: World, wait: str) -> None:
        answer = await world.client.get(f"/status/{await world.upload()}?wait={wait}")
        assert assert_error(answer, 422, "INVALID_REQUEST")["errors"][0]["field"] == "wait"

    async def test_more_waits_than_there_are_seats_are_refused(self, new_world: OpenWorld) -> None:
        async with one_at_a_time(new_world) as (world, segmenter):
            world.services.long_polls = Seats(1, "waiting requests")
            job_id = await begin(world, segmenter)
            first = asyncio.create_task(world.client.get(f"/status/{job_id}?wait=60"))
            while not world.services.long_polls.taken:
                await asyncio.sleep(0.005)
            assert_error(await world.client.get(f"/status/{job_id}?wait=60"), 503, "OVERLOADED")
            assert (await status(world.client, job_id))["status"] == "processing"
            segmenter.release.set()
            assert (await first).status_code == 200


class TestCallbackUrl:
    SETTINGS = {"callback_hosts": "hooks.example.com", "callback_secret": "secret"}  # noqa: RUF012

    @pytest.mark.parametrize("where", ["body", "query"])
    async def test_an_allowed_url_is_taken(self, new_world: OpenWorld, where: str) -> None:
        url = "https://hooks.example.com/x?y=z"
        async with new_world(**self.SETTINGS) as world:
            job_id = await world.upload()
            body: dict[str, Any] = {"job_id": job_id, "coordinates_list": POINT}
            query = {"callback_url": url} if where == "query" else {}
            answer = await world.client.post(
                "/segment", json=body | ({} if query else {"callback_url": url}), params=query
            )
            assert answer.status_code == 200
            assert (await world.store.ended(job_id)).callback_url == url

    @pytest.mark.parametrize(
        "url",
        [
            "https://other.example.com/",
            "https://u:p@hooks.example.com/",
            "http://127.0.0.1/",
            "javascript:alert(1)",
            "x",
            "",
        ],
    )
    async def test_another_url_is_refused_and_nothing_is_started(self, new_world: OpenWorld, url: str) -> None:
        async with new_world(**self.SETTINGS) as world:
            job_id = await world.upload()
            assert_error(await segment(world.client, job_id, POINT, callback_url=url), 400, "INVALID_CALLBACK")
            assert (await status(world.client, job_id))["status"] == "uploaded"

    async def test_by_default_callbacks_are_refused_with_what_the_operator_must_set(self, world: World) -> None:
        answer = await segment(world.client, await world.upload(), POINT, callback_url="https://hooks.example.com/")
        body = assert_error(answer, 400, "INVALID_CALLBACK")
        assert "CALLBACK_HOSTS and CALLBACK_SECRET" in body["detail"]

    async def test_the_end_of_a_job_reaches_its_receiver(
        self, new_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The route, the store's outbox and the sender together."""
        monkeypatch.setattr(sender_module, "FIRST_DELAY_S", 0.05)
        async with receiving() as receiver:
            receiver.answer = lambda request: plain(503 if len(receiver.requests) == 1 else 200)
            settings = {
                "callback_hosts": f"127.0.0.1:{receiver.port}",
                "callback_secret": "secret",
                "callback_private_networks": "127.0.0.0/8",
            }
            async with new_world(**settings) as world:
                outbox = world.scheduler.outbox
                sender = CallbackSender(outbox, CallbackRules.of(world.settings))
                outbox.on_new = sender.wake
                world.scheduler.run_beside(sender.run())
                job_id = await world.upload()
                await segment(world.client, job_id, POINT, callback_url=receiver.url())
                first, second = await receiver.wait_for(2)
                while await outbox.next_delivery_at() is not None:
                    await asyncio.sleep(0.01)
                expected = await status(world.client, job_id)
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert json.loads(second.body) == expected
        assert expected["status"] == "ready"


class TestRuns:
    async def test_a_download_under_way_keeps_the_file_it_began_with(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The storage reads piece by piece; between the pieces the job is segmented again, to its end."""
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        before = (await world.client.get(f"/download/{job_id}/mask_0.png")).content
        began, go_on = asyncio.Event(), threading.Event()
        loop, chunks = asyncio.get_running_loop(), world.artifacts.chunks

        def slow(job_id: str, name: str, start: int, stop: int, **options: Any) -> Iterator[bytes]:
            whole = b"".join(chunks(job_id, name, start, stop, **options))
            path = world.folder / "jobs" / job_id / name
            with path.open("rb") as file:
                yield file.read(len(whole) // 2)
                loop.call_soon_threadsafe(began.set)
                assert go_on.wait(PATIENCE_S)
                yield file.read()

        monkeypatch.setattr(world.artifacts, "chunks", slow)
        async with serving(create_app(world.services)) as live:
            download = asyncio.create_task(live.get(f"/download/{job_id}/mask_0.png"))
            await asyncio.wait_for(began.wait(), PATIENCE_S)
            await world.segment(job_id, [20, 30])
            go_on.set()
            assert (await download).content == before
        monkeypatch.undo()
        assert (await world.client.get(f"/download/{job_id}/mask_0.png")).content != before

    async def test_files_of_different_runs_never_share_a_place(self, world: World) -> None:
        job_id = await world.upload()
        places = []
        for point in ([60, 45], [20, 30]):
            await world.segment(job_id, point)
            places.append(await world.services.jobs.file(job_id, "mask_0.png"))
        assert len(set(places)) == 2

    @pytest.mark.parametrize("name", ["r1.mask_0.png", "jobs.db", "..%2Fjobs.db", ".mask_0.png", "%00", "mask_0.PNG"])
    async def test_where_a_file_lies_is_no_name_to_fetch_it_by(self, world: World, name: str) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        for query in ("", "?format=jpeg"):
            answer = await world.client.get(f"/download/{job_id}/{name}{query}")
            assert answer.status_code == 404
            assert answer.json()["error_code"] in ("FILE_NOT_FOUND", "NOT_FOUND")

    async def test_a_lost_file_is_told_by_the_name_the_client_knows(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        for path in world.folder.glob("jobs/*/*mask*"):
            path.unlink()
        for query in ("", "?format=jpeg"):
            answer = await world.client.get(f"/download/{job_id}/mask_0.png{query}")
            assert assert_error(answer, 404, "FILE_NOT_FOUND")["filename"] == "mask_0.png"


class TestDocumentation:
    async def test_new_routes_headers_and_errors_are_described(self, client: httpx.AsyncClient) -> None:
        described = (await client.get("/openapi.json")).json()["paths"]
        for route in ("/upload", "/segment"):
            headers = [p["name"] for p in described[route]["post"]["parameters"] if p["in"] == "header"]
            assert headers == ["Idempotency-Key"]
        events = described["/events/{job_id}"]["get"]
        assert "text/event-stream" in events["responses"]["200"]["content"]
        assert "Last-Event-ID" in [parameter["name"] for parameter in events["parameters"]]
        assert set(described["/cancel/{job_id}"]["post"]["responses"]) >= {"200", "404", "409"}
        told = described["/segment"]["post"]["responses"]
        errors = {"400", "401", "404", "408", "409", "413", "422", "429", "500", "503"}
        assert set(told) == {"200", *errors}

    async def test_every_documented_error_has_the_shape_of_all_errors(self, client: httpx.AsyncClient) -> None:
        described = (await client.get("/openapi.json")).json()["paths"]
        examples = [
            example["value"]
            for methods in described.values()
            for operation in methods.values()
            for code, response in operation["responses"].items()
            if code >= "400"
            for example in response["content"]["application/json"]["examples"].values()
        ]
        assert len(examples) > 15
        assert all(set(example) == {"detail", "error_code", "request_id"} for example in examples)

    async def test_the_root_lists_them(self, client: httpx.AsyncClient) -> None:
        endpoints = (await client.get("/")).json()["endpoints"]
        assert {"GET /events/{job_id}", "POST /cancel/{job_id}"} <= set(endpoints)
