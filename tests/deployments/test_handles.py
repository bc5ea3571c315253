"""A call to a replica: what is cancelled, what is asked again, and whose error the caller sees."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError
from ray.serve.exceptions import BackPressureError

from deployments.handles import call
from pipeline.errors import EmbeddingLost, InferenceError, InvalidPoint, Overloaded, ReplicaDied
from tests.stub_models import PATIENCE_S


class FakeResponse:
    """What a handle returns: awaitable, and cancellable."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer
        self.cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        return self._run().__await__()

    async def _run(self) -> Any:
        value = self._answer()
        return await value if asyncio.iscoroutine(value) else value

    def cancel(self) -> None:
        self.cancelled = True


class FakeMethod:
    """A handle's method that gives one prepared answer after the other."""

    def __init__(self, *answers: Any) -> None:
        self._answers = iter(answers)
        self.sent: list[FakeResponse] = []

    def __call__(self) -> FakeResponse:
        answer = next(self._answers)

        def give() -> Any:
            if isinstance(answer, BaseException):
                raise answer
            return answer() if callable(answer) else answer

        self.sent.append(FakeResponse(give))
        return self.sent[-1]


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("alpha", "Traceback: /secret/path/of/the/server.py", cause)


def died() -> ActorDiedError:
    return ActorDiedError()


async def never() -> None:
    await asyncio.Event().wait()


async def test_the_answer_comes_back() -> None:
    assert await call(FakeMethod(7)) == 7


async def test_a_call_past_its_time_is_cancelled_on_the_replica() -> None:
    method = FakeMethod(never)
    with pytest.raises(TimeoutError):
        await call(method, timeout_s=0.01)
    assert method.sent[0].cancelled


async def test_a_caller_that_goes_away_cancels_its_work() -> None:
    method = FakeMethod(never)
    task = asyncio.create_task(call(method))
    while not method.sent:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert method.sent[0].cancelled


async def test_a_replica_that_died_is_asked_once_more() -> None:
    method = FakeMethod(died(), 7)
    assert await call(method) == 7
    assert len(method.sent) == 2


async def test_two_deaths_are_told_as_such_with_a_time_to_retry() -> None:
    with pytest.raises(ReplicaDied) as caught:
        await call(FakeMethod(died(), died()))
    assert caught.value.fields["retry_after"] == 5


async def test_a_replica_that_cannot_be_reached_the_second_time_has_not_died_twice() -> None:
    unavailable = ActorUnavailableError("", None)
    with pytest.raises(Overloaded) as caught:
        await call(FakeMethod(died(), unavailable))
    assert not isinstance(caught.value, ReplicaDied)


async def test_the_second_time_may_be_asked_in_another_way() -> None:
    first, second = FakeMethod(died()), FakeMethod(7)
    assert await call(first, again=second) == 7
    assert (len(first.sent), len(second.sent)) == (1, 1)


async def test_those_that_a_death_met_are_asked_again_one_after_the_other() -> None:
    """Among them is whichever killed the replica; together they would all die again."""
    turn = asyncio.Lock()
    release = asyncio.Event()
    inside = [0, 0]  # now, and at most

    async def work() -> int:
        inside[0] += 1
        inside[1] = max(inside)
        await release.wait()
        inside[0] -= 1
        return 7

    methods = [FakeMethod(work) for _ in range(3)]
    calls = [asyncio.create_task(call(FakeMethod(died()), again=again, turn=turn)) for again in methods]
    while not any(method.sent for method in methods):
        await asyncio.sleep(0)
    release.set()
    assert await asyncio.wait_for(asyncio.gather(*calls), PATIENCE_S) == [7, 7, 7]
    assert inside == [0, 1]


async def test_work_that_must_not_run_twice_is_not_asked_again() -> None:
    method = FakeMethod(died(), 7)
    with pytest.raises(Overloaded):
        await call(method, retry=False)
    assert len(method.sent) == 1


async def test_our_own_errors_arrive_as_they_were_raised() -> None:
    with pytest.raises(InvalidPoint) as caught:
        await call(FakeMethod(task_error(InvalidPoint("Outside.", object=3))))
    assert caught.value.detail == "Outside."
    assert caught.value.fields == {"object": 3}


async def test_foreign_errors_lose_their_text() -> None:
    with pytest.raises(InferenceError) as caught:
        await call(FakeMethod(task_error(ValueError("CUDA error at /secret/path"))))
    assert "secret" not in str(caught.value)


async def test_a_full_queue_is_told_as_overload() -> None:
    with pytest.raises(Overloaded):
        await call(FakeMethod(BackPressureError(num_queued_requests=2, max_queued_requests=2)))


async def test_a_lost_embedding_says_so() -> None:
    with pytest.raises(EmbeddingLost):
        await call(FakeMethod(ObjectLostError("00" * 28, None, "")))
