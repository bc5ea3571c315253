"""Calls to JobManager while its replicas come and go: sent again where that is harmless, and told apart where not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from deployments import remote_jobs
from deployments.remote_jobs import RemoteJobs
from pipeline.errors import JobBusy, JobFinished, JobNotFound, LeaseLost, Overloaded
from pipeline.jobs.records import IdempotencyKey, JobEvent, JobObject, JobRecord, JobView
from tests.deployments.test_handles import FakeResponse
from tests.stub_models import PATIENCE_S

ONE = (JobObject(((1.0, 2.0),), (1,)),)
RECORD = JobRecord(
    "a", "c", "processing", "queued", 0, 1, 9, 9, ONE, (), ("original.png",), None, 0, 0, None, 10, 1.0, 2.0, 3.0
)


class FakeHandle:
    """JobManager's handle: gives prepared answers in turn, and remembers what was asked."""

    def __init__(self, *answers: Any) -> None:
        self._answers = iter(answers)
        self.calls: list[tuple[Any, ...]] = []

    def options(self, *, method_name: str) -> FakeMethod:
        return FakeMethod(self, method_name)


class FakeMethod:
    def __init__(self, handle: FakeHandle, name: str) -> None:
        self._handle = handle
        self._name = name

    def remote(self, *arguments: Any) -> FakeResponse:
        self._handle.calls.append((self._name, *arguments))
        answer = next(self._handle._answers)

        def give() -> Any:
            if isinstance(answer, BaseException):
                raise answer
            return answer() if callable(answer) else answer

        return FakeResponse(give)


def raised(error: Exception) -> RayTaskError:
    return RayTaskError("method", "Traceback: /secret/path.py", error)


GONE = [
    pytest.param(lambda: ActorDiedError(), id="died"),
    pytest.param(lambda: ActorUnavailableError("gone", b"x" * 16), id="unavailable"),
    pytest.param(lambda: raised(LeaseLost("restarting", retry_after=5)), id="lease lost"),
]

CALLS = [
    pytest.param(lambda jobs: jobs.reserve("a", client="c", size=9), id="reserve"),
    pytest.param(lambda jobs: jobs.create("a", width=9, height=9, size=9), id="create"),
    pytest.param(lambda jobs: jobs.segment("a", ONE), id="segment"),
    pytest.param(lambda jobs: jobs.discard("a"), id="discard"),
    pytest.param(lambda jobs: jobs.cancel("a"), id="cancel"),
    pytest.param(lambda jobs: jobs.file("a", "mask_0.png"), id="file"),
]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_jobs, "_PAUSE_S", 0.001)


@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("call", CALLS)
async def test_a_call_is_sent_again_just_as_it_was(
    gone: Callable[[], Exception], call: Callable[[RemoteJobs], Any]
) -> None:
    handle = FakeHandle(gone(), gone(), RECORD)
    answer = await call(RemoteJobs(handle))
    assert answer in (RECORD, None)
    assert len(handle.calls) == 3
    assert handle.calls[0] == handle.calls[1] == handle.calls[2]


async def test_a_request_without_a_key_gets_one_of_its_own_and_another_each_time() -> None:
    handle = FakeHandle(RECORD, RECORD)
    jobs = RemoteJobs(handle)
    await jobs.segment("a", ONE)
    await jobs.segment("a", ONE)
    first, second = (call[-1] for call in handle.calls)
    assert first.scope == second.scope
    assert first.key != second.key


async def test_a_clients_own_key_is_handed_on() -> None:
    key = IdempotencyKey("client /segment", "k", "f")
    handle = FakeHandle(RECORD, RECORD)
    await RemoteJobs(handle).segment("a", ONE, callback_url="https://example.com", key=key)
    await RemoteJobs(handle).reserve("a", client="c", size=9, key=key, key_id="owner")
    assert handle.calls == [("segment", "a", ONE, "https://example.com", key), ("reserve", "a", "c", 9, key, "owner")]


async def test_an_answer_that_is_an_error_is_not_asked_for_again() -> None:
    handle = FakeHandle(raised(JobBusy("busy")))
    with pytest.raises(JobBusy):
        await RemoteJobs(handle).segment("a", ONE)
    assert len(handle.calls) == 1


async def test_a_full_queue_is_told_at_once() -> None:
    handle = FakeHandle(raised(Overloaded("Too many jobs are waiting.", retry_after=30)))
    with pytest.raises(Overloaded, match="Too many"):
        await RemoteJobs(handle).segment("a", ONE)
    assert len(handle.calls) == 1


async def test_without_a_replica_in_time_the_call_is_given_up() -> None:
    handle = FakeHandle(*[ActorDiedError() for _ in range(100_000)])
    with pytest.raises(Overloaded):
        await RemoteJobs(handle, restart_s=0.05).get("a")
    assert len(handle.calls) > 1


async def test_deleting_twice_because_of_a_death_is_deleting() -> None:
    await RemoteJobs(FakeHandle(ActorDiedError(), raised(JobNotFound("Job not found")))).delete("a")


async def test_deleting_what_is_not_there_is_an_error() -> None:
    with pytest.raises(JobNotFound):
        await RemoteJobs(FakeHandle(raised(JobNotFound("Job not found")))).delete("a")


async def test_cancelling_twice_because_of_a_death_is_cancelling() -> None:
    canceled = replace(RECORD, state="canceled")
    handle = FakeHandle(ActorDiedError(), raised(JobFinished("ended")), JobView(canceled))
    assert await RemoteJobs(handle).cancel("a") == canceled


@pytest.mark.parametrize("before", [[], [ActorDiedError()]], ids=["at once", "after a death"])
async def test_cancelling_a_job_that_ended_by_itself_is_an_error(before: list[Exception]) -> None:
    handle = FakeHandle(*before, raised(JobFinished("ended")), JobView(replace(RECORD, state="ready")))
    with pytest.raises(JobFinished):
        await RemoteJobs(handle).cancel("a")


async def test_a_long_wait_is_asked_for_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_jobs, "WAIT_SLICE_S", 4.0)
    ready = JobView(replace(RECORD, state="ready"))
    handle = FakeHandle(JobView(RECORD), JobView(RECORD), ready)
    assert await RemoteJobs(handle).get("a", wait_s=30) == ready
    assert [call[-1] for call in handle.calls] == [4.0, 4.0, 4.0]


async def test_a_wait_ends_when_its_time_is_up() -> None:
    def slow() -> Any:
        async def answer() -> JobView:
            await asyncio.sleep(0.02)
            return JobView(RECORD)

        return answer()

    handle = FakeHandle(*[slow] * 100)
    answer = RemoteJobs(handle).get("a", wait_s=0.05)
    assert (await asyncio.wait_for(answer, PATIENCE_S)).record.state == "processing"
    assert all(call[-1] <= 0.05 for call in handle.calls)


async def test_events_are_answered_with_the_first_slice_that_has_any() -> None:
    events = [JobEvent(1, "stage", "queued", RECORD)]
    handle = FakeHandle([], events)
    assert await RemoteJobs(handle).events("a", after=0, wait_s=30) == events
    assert [call[:3] for call in handle.calls] == [("events", "a", 0)] * 2


async def test_no_wait_is_one_call() -> None:
    handle = FakeHandle(JobView(RECORD), [])
    assert (await RemoteJobs(handle).get("a")).record == RECORD
    assert await RemoteJobs(handle).events("a", after=0, wait_s=0) == []
    assert [call[-1] for call in handle.calls] == [0.0, 0.0]
