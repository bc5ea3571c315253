"""Waiting for a change: none is missed, none is made up, and waiters are counted."""

from __future__ import annotations

import asyncio

from deployments.job_watch import JobWatch
from tests.stub_models import PATIENCE_S


async def test_a_change_wakes_everybody_who_waits_for_that_job() -> None:
    watch = JobWatch()
    with watch.waiter("a", PATIENCE_S) as first, watch.waiter("a", PATIENCE_S) as second:
        waiting = asyncio.gather(first.wait(), second.wait())
        watch.changed("a")
        assert await waiting == [True, True]


async def test_a_change_before_the_wait_counts() -> None:
    """Whoever looked at the job in between would wait for a change that has been."""
    watch = JobWatch()
    with watch.waiter("a", PATIENCE_S) as waiter:
        watch.changed("a")
        assert await waiter.wait()


async def test_a_change_wakes_once() -> None:
    watch = JobWatch()
    with watch.waiter("a", 0.05) as waiter:
        watch.changed("a")
        assert await waiter.wait()
        assert not await waiter.wait()


async def test_another_jobs_change_wakes_nobody() -> None:
    watch = JobWatch()
    with watch.waiter("a", 0.05) as waiter:
        watch.changed("b")
        assert not await waiter.wait()


async def test_no_time_means_no_wait() -> None:
    watch = JobWatch()
    with watch.waiter("a", 0) as waiter:
        assert not await asyncio.wait_for(waiter.wait(), PATIENCE_S)


async def test_one_too_many_does_not_wait_until_another_leaves() -> None:
    watch = JobWatch(max_waiters=1)
    with watch.waiter("a", 60), watch.waiter("b", 60) as refused:
        assert not await asyncio.wait_for(refused.wait(), PATIENCE_S)
    with watch.waiter("b", PATIENCE_S) as waiter:
        watch.changed("b")
        assert await waiter.wait()


async def test_who_has_left_is_forgotten() -> None:
    watch = JobWatch()
    for _ in range(3):
        with watch.waiter("a", 1), watch.waiter("a", 1), watch.waiter("b", 1):
            pass
    assert watch._waiters == {}
    assert watch._count == 0
