"""Work in threads: its answer, its errors, and its end when nobody waits any more."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading

import pytest

from pipeline.threads import BULK_NICENESS, LEAST_PRIORITY, in_thread
from tests.stub_models import PATIENCE_S


async def test_the_answer_comes_from_another_thread() -> None:
    assert await in_thread(threading.get_ident) != threading.get_ident()


async def test_errors_arrive() -> None:
    with pytest.raises(ValueError, match="x"):
        await in_thread(int, "x")


@pytest.mark.parametrize("fails", [False, True])
async def test_a_caller_that_is_cancelled_ends_with_the_thread(fails: bool) -> None:
    entered, release = threading.Event(), threading.Event()
    ended = []

    def work() -> None:
        entered.set()
        assert release.wait(PATIENCE_S)
        ended.append(True)
        if fails:
            raise ValueError

    task = asyncio.create_task(in_thread(work))
    assert await asyncio.to_thread(entered.wait, PATIENCE_S)
    for _ in range(3):  # also one that is cancelled again and again
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, PATIENCE_S)
    assert ended


async def test_the_thread_stands_behind_the_loop_in_the_queue_for_a_core() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    here = niceness()
    assert await in_thread(niceness) == min(here + BULK_NICENESS, LEAST_PRIORITY)
    assert niceness() == here


async def test_what_belongs_to_the_request_is_known_in_the_thread() -> None:
    request = contextvars.ContextVar[str]("request")
    request.set("a")
    assert await in_thread(request.get) == "a"
