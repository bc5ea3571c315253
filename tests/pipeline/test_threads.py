"""Work in threads: its answer, its errors, and its end when nobody waits any more."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pipeline.threads import in_thread
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
