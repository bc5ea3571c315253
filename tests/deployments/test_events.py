"""Server-Sent Events of a job: in order, to be continued, through outages, and gone when the client is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import fastapi.routing
import httpx
import pytest

from deployments import event_stream
from deployments.event_stream import follow
from deployments.ingress import create_app
from deployments.seats import Seats
from deployments.services import Jobs
from pipeline.errors import ClearcutError, JobNotFound, Overloaded
from pipeline.jobs.records import JobEvent, JobRecord, JobView
from tests.deployments.conftest import OpenWorld
from tests.deployments.test_callbacks import RECORD
from tests.deployments.test_job_routes import assert_error, status
from tests.deployments.world import World
from tests.http_service import serving
from tests.stub_models import PATIENCE_S, HeldSegmenter


@dataclass(frozen=True)
class Sent:
    """One event of a stream."""

    kind: str
    number: int
    data: dict[str, Any]


def parse(block: str) -> Sent:
    fields = dict(line.split(": ", 1) for line in block.splitlines())
    return Sent(fields["event"], int(fields["id"]), json.loads(fields["data"]))


async def read(answer: httpx.Response) -> AsyncIterator[Sent]:
    """The events of a stream as they come; comments are left out."""
    text = ""
    async for part in answer.aiter_text():
        text += part
        while "\n\n" in text:
            block, text = text.split("\n\n", 1)
            if not block.startswith(":"):
                yield parse(block)
    assert text == ""


async def events_of(client: httpx.AsyncClient, job_id: str, after: int | None = None) -> list[Sent]:
    """All events, once the stream has ended."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    async with client.stream("GET", f"/events/{job_id}", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [sent async for sent in read(answer)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def live(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the world over TCP."""
    async with serving(create_app(world.services)) as client:
        yield client


class TestReplay:
    async def test_a_finished_job_is_told_from_its_start_to_its_end(self, world: World) -> None:
        job_id = await world.upload()
        record = await world.segment(job_id, [60, 45])
        sent = await events_of(world.client, job_id)
        assert [event.number for event in sent] == list(range(sent[0].number, sent[0].number + len(sent)))
        assert (sent[0].kind, sent[0].data["stage"]) == ("stage", "queued")
        assert [event.kind for event in sent].count("end") == 1
        assert (sent[-1].kind, sent[-1].data["status"]) == ("end", "ready")
        made = [event.data["file"] for event in sent if event.kind == "artifact"]
        assert ["original.png", *made] == list(record.files)

    async def test_data_is_the_status_document(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        assert (await events_of(world.client, job_id))[-1].data == await status(world.client, job_id)

    async def test_progress_never_falls(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45], [20, 30])
        progress = [event.data["progress"] for event in await events_of(world.client, job_id)]
        assert progress == sorted(progress)
        assert progress[-1] == 100

    async def test_an_artifacts_url_leads_to_it(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        made = [event.data for event in await events_of(world.client, job_id) if event.kind == "artifact"]
        assert made
        for data in made:
            answer = await world.client.get(data["url"])
            assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
            assert data["url"].endswith(data["file"])
            assert data["file"] in data["files"]

    async def test_last_event_id_goes_on_after_it(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        whole = await events_of(world.client, job_id)
        for seen in range(len(whole) - 1):
            assert await events_of(world.client, job_id, whole[seen].number) == whole[seen + 1 :]

    async def test_who_has_the_end_is_told_to_stay_away(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        last = (await events_of(world.client, job_id))[-1].number
        answer = await world.client.get(f"/events/{job_id}", headers={"Last-Event-ID": str(last)})
        assert (answer.status_code, answer.content) == (204, b"")

    async def test_a_canceled_job_ends_canceled(self, world: World) -> None:
        job_id = await world.upload()
        await world.client.post(f"/cancel/{job_id}")
        sent = await events_of(world.client, job_id)
        assert [(event.kind, event.data["status"]) for event in sent] == [("end", "canceled")]

    async def test_a_job_in_error_says_why(self, new_world: OpenWorld) -> None:
        segmenter = HeldSegmenter(blind_for=[0])
        segmenter.release.set()
        async with new_world(segmenter=segmenter) as world:
            job_id = await world.upload()
            await world.segment(job_id, [60, 45])
            end = (await events_of(world.client, job_id))[-1]
        assert (end.kind, end.data["status"]) == ("end", "error")
        assert "object 0" in end.data["error"]

    async def test_an_unknown_job_is_404(self, client: httpx.AsyncClient) -> None:
        assert_error(await client.get(f"/events/{'0' * 32}"), 404, "JOB_NOT_FOUND")

    @pytest.mark.parametrize("given", ["x", "-1", "1.5", str(2**31), "9" * 400])
    async def test_a_last_event_id_that_we_never_sent_is_refused(self, world: World, given: str) -> None:
        answer = await world.client.get(f"/events/{await world.upload()}", headers={"Last-Event-ID": given})
        assert assert_error(answer, 422, "INVALID_REQUEST")["errors"][0]["field"] == "Last-Event-ID"


class TestSegmentedAgain:
    async def test_numbers_go_on_and_the_story_begins_with_the_present_run(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        first = await events_of(world.client, job_id)
        await world.segment(job_id, [20, 30], [90, 60])
        second = await events_of(world.client, job_id)
        assert second[0].number > first[-1].number
        assert {event.data["num_objects"] for event in second} == {2}
        assert [event.kind for event in second].count("end") == 1

    async def test_who_knows_the_first_end_goes_on_with_the_second_run(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        last = (await events_of(world.client, job_id))[-1].number
        await world.segment(job_id, [20, 30], [90, 60])
        assert await events_of(world.client, job_id, last) == await events_of(world.client, job_id)


class TestLive:
    async def test_an_uploaded_job_is_waited_for(self, world: World, live: httpx.AsyncClient) -> None:
        job_id = await world.upload()
        async with live.stream("GET", f"/events/{job_id}") as answer:
            await world.segment(job_id, [60, 45])
            sent = [event async for event in read(answer)]
        assert sent == await events_of(world.client, job_id)

    async def test_events_come_when_they_happen(self, new_world: OpenWorld) -> None:
        segmenter = HeldSegmenter()
        async with new_world(segmenter=segmenter) as world, serving(create_app(world.services)) as live:
            job_id = await world.upload()
            async with live.stream("GET", f"/events/{job_id}") as answer, asyncio.timeout(PATIENCE_S):
                stream = read(answer)
                await live.post("/segment", json={"job_id": job_id, "coordinates_list": [[60, 45]]})
                stages = [(await anext(stream)).data["stage"]]
                while stages[-1] != "segmenting":
                    stages.append((await anext(stream)).data["stage"])
                assert segmenter.release.is_set() is False
                segmenter.release.set()
                rest = [event async for event in stream]
        assert rest[-1].kind == "end"

    async def test_a_file_can_be_fetched_when_its_event_comes(self, world: World, live: httpx.AsyncClient) -> None:
        job_id = await world.upload()
        async with live.stream("GET", f"/events/{job_id}") as answer:
            await live.post("/segment", json={"job_id": job_id, "coordinates_list": [[60, 45]]})
            statuses = [
                (await live.get(event.data["url"])).status_code
                async for event in read(answer)
                if event.kind == "artifact"
            ]
        assert statuses
        assert set(statuses) == {200}

    async def test_a_cancel_ends_the_stream(self, new_world: OpenWorld) -> None:
        async with new_world(segmenter=HeldSegmenter()) as world, serving(create_app(world.services)) as live:
            job_id = await world.upload()
            await live.post("/segment", json={"job_id": job_id, "coordinates_list": [[60, 45]]})
            async with live.stream("GET", f"/events/{job_id}") as answer:
                await live.post(f"/cancel/{job_id}")
                sent = [event async for event in read(answer)]
        assert (sent[-1].kind, sent[-1].data["status"]) == ("end", "canceled")

    async def test_a_deletion_ends_the_stream(self, world: World, live: httpx.AsyncClient) -> None:
        job_id = await world.upload()
        async with live.stream("GET", f"/events/{job_id}") as answer:
            await live.delete(f"/cleanup/{job_id}")
            assert [event async for event in read(answer)] == []

    async def test_a_comment_comes_while_nothing_happens(
        self, world: World, live: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert fastapi.routing._PING_INTERVAL == 15
        monkeypatch.setattr(fastapi.routing, "_PING_INTERVAL", 0.05)
        async with live.stream("GET", f"/events/{await world.upload()}") as answer, asyncio.timeout(PATIENCE_S):
            text = answer.aiter_text()
            assert (await anext(text)).startswith(":")


class TestBounds:
    async def test_more_streams_than_there_are_seats_are_refused(self, world: World, live: httpx.AsyncClient) -> None:
        world.services.streams = Seats(1, "event streams")
        job_id = await world.upload()
        async with live.stream("GET", f"/events/{job_id}") as answer:
            assert answer.status_code == 200
            refused = await live.get(f"/events/{job_id}")
        assert_error(refused, 503, "OVERLOADED")
        assert refused.headers["retry-after"] == "5"

    async def test_a_client_that_goes_away_frees_everything(self, world: World, live: httpx.AsyncClient) -> None:
        job_id = await world.upload()
        before = asyncio.all_tasks()
        async with live.stream("GET", f"/events/{job_id}"):
            await until(lambda: world.scheduler._watch._count == 1)
            assert world.services.streams.taken == 1
        await until(lambda: world.services.streams.taken == 0)
        await until(lambda: world.scheduler._watch._count == 0)
        await until(lambda: not [task for task in asyncio.all_tasks() - before if "sse" in repr(task)])

    async def test_a_stream_that_ended_frees_its_seat(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        await events_of(world.client, job_id)
        await world.client.get(f"/events/{'0' * 32}")
        assert world.services.streams.taken == 0


class TestOutage:
    async def test_a_stream_survives_while_job_manager_restarts(
        self, world: World, live: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(event_stream, "FIRST_PAUSE_S", 0.01)
        real, failures = world.services.jobs.events, iter([Overloaded("restarting"), TimeoutError()] * 2)

        async def shaky(job_id: str, *, after: int, wait_s: float) -> list[JobEvent]:
            if (failure := next(failures, None)) is not None:
                raise failure
            return await real(job_id, after=after, wait_s=wait_s)

        monkeypatch.setattr(world.services.jobs, "events", shaky)
        job_id = await world.upload()
        async with live.stream("GET", f"/events/{job_id}") as answer:
            await world.segment(job_id, [60, 45])
            sent = [event async for event in read(answer)]
        assert next(failures, None) is None
        assert sent == await events_of(world.client, job_id)

    async def test_a_stream_ends_when_job_manager_stays_away(
        self, world: World, monkeypatch: pytest.MonkeyPatch, service_log: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(event_stream, "OUTAGE_S", 0.05)
        monkeypatch.setattr(event_stream, "FIRST_PAUSE_S", 0.01)

        async def away(job_id: str, *, after: int, wait_s: float) -> list[JobEvent]:
            raise Overloaded("restarting")

        monkeypatch.setattr(world.services.jobs, "events", away)
        assert await events_of(world.client, await world.upload()) == []
        assert "ends early" in service_log.text
        assert world.services.streams.taken == 0


class ScriptedJobs:
    """Answers of JobManager in the order a test wants them."""

    def __init__(self, events: list[list[JobEvent] | ClearcutError], states: list[str]) -> None:
        self.events_left = list(events)
        self.states_left = list(states)
        self.waits: list[float] = []

    async def events(self, job_id: str, *, after: int, wait_s: float) -> list[JobEvent]:
        self.waits.append(wait_s)
        answer = self.events_left.pop(0)
        if isinstance(answer, ClearcutError):
            raise answer
        return answer

    async def get(self, job_id: str, *, wait_s: float = 0) -> JobView:
        return JobView(record(self.states_left.pop(0)))


def record(state: Any, run: int = 1) -> JobRecord:
    return replace(RECORD, state=state, run=run)


def event(number: int, kind: Any, run: int = 1) -> JobEvent:
    return JobEvent(number, kind, kind, record("processing", run))


async def numbers(jobs: ScriptedJobs, start: JobRecord, after: int = 0) -> list[int]:
    return [told.number async for told in follow(cast(Jobs, jobs), start, after=after)]


class TestFollow:
    @pytest.fixture(autouse=True)
    def short_rounds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(event_stream, "SHORTEST_ROUND_S", 0.05)

    async def test_an_end_between_two_questions_is_not_missed(self) -> None:
        jobs = ScriptedJobs([[event(1, "stage")], [], [event(2, "end")]], ["ready"])
        assert await numbers(jobs, record("processing")) == [1, 2]
        assert jobs.waits[-1] == 0

    async def test_a_job_that_began_again_between_two_questions_is_followed(self) -> None:
        jobs = ScriptedJobs([[], [event(2, "end"), event(3, "stage", 2)], [event(4, "end", 2)]], ["ready"])
        assert await numbers(jobs, record("processing")) == [2, 3, 4]
        assert jobs.waits[-1] > 0

    async def test_a_finished_job_without_events_ends_at_once(self) -> None:
        jobs = ScriptedJobs([[]], [])
        assert await numbers(jobs, record("ready")) == []
        assert jobs.waits == [0]

    async def test_an_earlier_runs_end_ends_nothing(self) -> None:
        jobs = ScriptedJobs([[event(1, "end"), event(2, "stage", 2)], [event(3, "end", 2)]], [])
        assert await numbers(jobs, record("processing", run=2)) == [2, 3]

    async def test_a_job_manager_that_answers_at_once_is_not_asked_without_a_pause(self) -> None:
        jobs = ScriptedJobs([[]] * 6, ["processing"] * 4 + ["ready"])
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await numbers(jobs, record("processing")) == []
        assert loop.time() - started >= 5 * 0.05

    async def test_a_deleted_job_is_not_asked_for_again(self) -> None:
        jobs = ScriptedJobs([JobNotFound("Job not found")], [])
        with pytest.raises(JobNotFound):
            await numbers(jobs, record("processing"))
        assert len(jobs.waits) == 1
